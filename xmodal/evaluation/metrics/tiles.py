"""The scores of all queries with all items of a gallery, a tile at a time."""

import math
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from xmodal.activity import tracked
from xmodal.distributed.collectives import rank, sum_over_ranks, world_size
from xmodal.methods.scores import Score
from xmodal.precision import full_precision

GRAIN = 48  # sides of tiles are multiples: the fastest kernels' heights are
MIN_BLOCKS = 8  # a side, so that many processes have a share
# Where a score is its own exact one, the tiles that hold relevant pairs are scored twice: these are
# an eighth of all where each image's texts follow each other.
MIN_EXACT_BLOCKS = 16

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
    `whole_rows` are wanted at a time. Where they are `shared` among processes, there are several.
    """

    def __init__(
        self,
        rows: Tensor,
        columns: Tensor,
        score: Score,
        tile: int,
        *,
        whole_rows: bool = False,
        shared: bool = True,
    ) -> None:
        self.rows, self.columns, self.score = rows, columns, score
        blocks = (MIN_EXACT_BLOCKS if self.error is None else MIN_BLOCKS) if shared else 1
        self.height = _block_size(len(rows), tile, blocks)
        self.width = _block_size(len(columns), tile, blocks)
        if whole_rows:
            self.height = min(self.height, max(tile * tile // len(columns) // GRAIN * GRAIN, GRAIN))
        self.num_rows = math.ceil(len(rows) / self.height)
        self.num_columns = math.ceil(len(columns) / self.width)

    def __len__(self) -> int:
        return self.num_rows * self.num_columns

    def spans(self, number: int) -> tuple[slice, slice]:
        """Rows and columns of the tile."""
        row, column = divmod(number, self.num_columns)
        top, left = row * self.height, column * self.width
        return (
            slice(top, min(top + self.height, len(self.rows))),
            slice(left, min(left + self.width, len(self.columns))),
        )

    @cached_property
    def error(self) -> Tensor | None:
        """Greatest error of a fast score."""
        return self.score.error(self.rows, self.columns)

    def fast(self, number: int) -> Tensor:
        """Return the tile's fast scores, of the shape of its spans."""
        block = self._block(number)
        with full_precision():
            scores = self.score(*block)
        assert scores.shape == (len(block[0]), len(block[1])), "score must map (a, …), (b, …)"
        return scores

    def exact(self, number: int) -> Tensor:
        """Return the tile's exact scores, float64, of the shape of its spans."""
        with full_precision():
            return self.score.exact(*self._block(number))

    def chosen(self, number: int, i: Tensor, j: Tensor) -> Tensor:
        """Return exact scores (n,), float64, in places of the tile: rows i, columns j."""
        with full_precision():
            return self.score.chosen(*self._block(number), i, j)

    def reach(self, number: int, i: Tensor, j: Tensor, limits: Tensor) -> Tensor:
        """Return whether exact scores in places of the tile reach limits (n,), (n,) bool."""
        assert self.error is not None
        with full_precision():
            return self.score.reach(self._block(number), i, j, limits, self.error)

    def row(self, row: int) -> tuple[slice, Tensor]:
        """A row of tiles: which rows are in it, and their exact scores with all columns."""
        numbers = range(row * self.num_columns, (row + 1) * self.num_columns)
        return self.spans(numbers[0])[0], torch.cat([self.exact(n) for n in numbers], 1)

    def _block(self, number: int) -> tuple[Tensor, Tensor]:
        rows, columns = self.spans(number)
        return self.rows[rows], self.columns[columns]

    def places(self, pairs: Tensor) -> Places:
        """Places of some of the pairs, in the tiles that hold any."""
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
    """Return `judge` of each query's exact scores with a gallery, float64 (queries, n).

    All processes of the default group call it with the same arguments; each takes its share of the
    queries, all get the whole result. Of queries × items about `tile`² are in memory at a time.
    Raises `ValueError` where a score, or a value of `judge`, is NaN.
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


def _block_size(num_items: int, tile: int, blocks: int) -> int:
    size = min(tile, math.ceil(num_items / blocks))
    return math.ceil(size / GRAIN) * GRAIN
