"""The scores of all queries with all items of a gallery, a tile at a time."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from xmodal.activity import tracked
from xmodal.distributed.collectives import rank, sum_over_ranks, world_size
from xmodal.methods.method import Score

# Matrix products give bitwise equal scores to equal embeddings only where no edge of a tile is
# left to a kernel that sums in another order. 48 is a multiple of the usual kernels' heights
# (MKL's are 48 in float32 and 24 in float64 with AVX-512; 32 or 64 are not enough there).
GRAIN = 48
# The tiles that hold true pairs are scored twice: with 16 blocks a side they are at most an
# eighth of all where each image's texts follow each other.
MIN_BLOCKS = 16

Places = dict[int, tuple[Tensor, Tensor]]  # by a tile's number, (rows, columns) in it
Choice = Callable[
    [Tensor], Tensor
]  # of some queries' rows (some,), which items: (some, items) bool
Judge = Callable[
    [Tensor, Tensor], Tensor
]  # of rows (some,) and scores (some, items), (some, values)


class Tiles:
    """The scores of all rows with all columns, in numbered tiles that are computed on demand.

    Tiles are of about `tile` rows and columns, and in rows of tiles of about `tile`² scores where
    `whole_rows` are wanted at a time.
    """

    def __init__(
        self, rows: Tensor, columns: Tensor, score: Score, tile: int, *, whole_rows: bool = False
    ) -> None:
        self.rows, self.columns, self.score = rows, columns, score
        self.height = _block_size(len(rows), tile)
        self.width = _block_size(len(columns), tile)
        if whole_rows:
            fitting = tile * tile // len(columns) // GRAIN * GRAIN
            self.height = min(self.height, max(fitting, GRAIN))
        self.num_rows = math.ceil(len(rows) / self.height)
        self.num_columns = math.ceil(len(columns) / self.width)

    def __len__(self) -> int:
        return self.num_rows * self.num_columns

    def spans(self, number: int) -> tuple[slice, slice]:
        """Where the tile lies: its rows and its columns."""
        row, column = divmod(number, self.num_columns)
        top, left = row * self.height, column * self.width
        return (
            slice(top, min(top + self.height, len(self.rows))),
            slice(left, min(left + self.width, len(self.columns))),
        )

    def scores(self, number: int) -> Tensor:
        """The tile's scores, of the shape of its spans, computed in the shape of a whole tile."""
        rows, columns = self.spans(number)
        scores = self.score(
            padded(self.rows[rows], self.height), padded(self.columns[columns], self.width)
        )
        assert scores.shape == (self.height, self.width), "score must map (a, …), (b, …) to (a, b)"
        return scores[: rows.stop - rows.start, : columns.stop - columns.start]

    def row(self, row: int) -> tuple[slice, Tensor]:
        """A row of tiles: which rows are in it, and their scores with all columns."""
        numbers = range(row * self.num_columns, (row + 1) * self.num_columns)
        return self.spans(numbers[0])[0], torch.cat([self.scores(n) for n in numbers], 1)

    def places(self, pairs: Tensor) -> Places:
        """Where some of the pairs lie, in the tiles that hold any."""
        pairs = pairs.to(self.rows.device)
        numbers = pairs[:, 0] // self.height * self.num_columns + pairs[:, 1] // self.width
        order = numbers.argsort()
        tiles, sizes = numbers[order].unique_consecutive(return_counts=True)
        rows = (pairs[order, 0] % self.height).split(sizes.tolist())
        columns = (pairs[order, 1] % self.width).split(sizes.tolist())
        return dict(zip(tiles.tolist(), zip(rows, columns, strict=True), strict=True))


def judge_queries(
    queries: Tensor, gallery: Tensor, score: Score, tile: int, num_values: int, judge: Judge
) -> Tensor:
    """Return what `judge` says of each query's scores with a gallery, (queries, values) float64.

    All processes of the default group call it with the same arguments; each takes its share of the
    queries, all get the whole result. Of queries × items about `tile`² are in memory at a time.
    Raises `ValueError` where a score, or what is said of it, is NaN.
    """
    tiles = Tiles(queries, gallery, score, tile, whole_rows=True)
    values = torch.zeros(len(queries), num_values, dtype=torch.float64, device=queries.device)
    for number in tracked(range(rank(), tiles.num_rows, world_size()), "row of tiles"):
        span, scores = tiles.row(number)
        broken = scores.isnan().any(1, keepdim=True)
        rows = torch.arange(span.start, span.stop, device=queries.device)
        values[span] = judge(rows, scores).double().masked_fill(broken, torch.nan)
    # All ranks hear of what one has met, or they would wait for it.
    values = sum_over_ranks(values)
    if values.isnan().any():
        raise ValueError(f"a score is NaN of query {int(values.isnan().any(1).nonzero()[0])}")
    return values


def padded(items: Tensor, size: int) -> Tensor:
    """Items (size, …): those given, and the last one of them as often as it takes."""
    # A real item, which every score function takes.
    missing = size - len(items)
    return torch.cat([items, items[-1:].expand(missing, *items.shape[1:])]) if missing else items


def _block_size(num_items: int, tile: int) -> int:
    size = min(tile, math.ceil(num_items / MIN_BLOCKS))
    return math.ceil(size / GRAIN) * GRAIN
