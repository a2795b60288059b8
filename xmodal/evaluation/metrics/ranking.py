"""Exact ranks of the relevant items, counted in tiles of scores on all processes.

The scores of all images with all texts never exist at once. A first pass computes the exact scores
of the relevant pairs; one sweep over all tiles then counts the rivals of every image and of every
text. The sweep is by fast scores: a rival that beats the best relevant item by more than these may
be off is counted, and pairs that are too close are decided by exact scores.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.distributed as dist
from torch import Tensor

from xmodal.activity import activity, tracked
from xmodal.evaluation.metrics.tiles import Places, Tiles
from xmodal.methods.scores import DENSE, Function, as_score, dot_product


@dataclass(frozen=True)
class Ranks:
    """The 0-based rank of each query's best relevant item: how many others score as high.

    Attributes:
        image_to_text: (num_images,) int64, ranks among the texts.
        text_to_image: (num_texts,) int64, ranks among the images.
    """

    image_to_text: Tensor
    text_to_image: Tensor


@torch.no_grad()
def count_ranks(
    images: Tensor,
    texts: Tensor,
    relevant_pairs: Tensor,
    score: Function = dot_product,
    tile: int = 2048,
) -> Ranks:
    """Rank every image's best relevant text and every text's best relevant image, exactly.

    All processes of the default group call it with the same arguments, on the device that the
    group communicates on; each scores its share of the tiles, all get the whole result. Ties
    count against the model.

    Args:
        images: (num_images, …) embeddings.
        texts: (num_texts, …) embeddings.
        relevant_pairs: (num_pairs, 2) int64, the relevant (image, text); any number an item.
        score: maps blocks (a, …) of images and (b, …) of texts to scores (a, b): a `Score`, or a
            function that gives equal pairs equal scores, to the last bit.
        tile: about the largest side of a tile.

    Raises:
        ValueError: an image or text has no relevant partner, or a score is NaN.
    """
    _check_pairs(relevant_pairs, len(images), len(texts))
    tiles = Tiles(images, texts, as_score(score), tile)
    relevant_places = tiles.places(relevant_pairs)
    best = _best_scores(tiles, relevant_places)
    image_to_text, text_to_image = _count_rivals(tiles, relevant_places, *best)
    return Ranks(image_to_text, text_to_image)


def _best_scores(tiles: Tiles, relevant_places: Places) -> tuple[Tensor, Tensor]:
    best_of_row = tiles.rows.new_full((len(tiles.rows),), -math.inf, dtype=torch.float64)
    best_of_column = tiles.rows.new_full((len(tiles.columns),), -math.inf, dtype=torch.float64)
    for number in _share(list(relevant_places)):
        rows, columns = tiles.spans(number)
        places = relevant_places[number]
        relevant_scores = tiles.chosen(number, *places)
        best_of_row[rows].scatter_reduce_(0, places[0], relevant_scores, "amax")
        best_of_column[columns].scatter_reduce_(0, places[1], relevant_scores, "amax")
    _reduce(best_of_row, dist.ReduceOp.MAX)
    _reduce(best_of_column, dist.ReduceOp.MAX)
    return best_of_row, best_of_column


def _count_rivals(
    tiles: Tiles,
    relevant_places: Places,
    best_of_row: Tensor,
    best_of_column: Tensor,
) -> tuple[Tensor, Tensor]:
    rivals_of_row = torch.zeros_like(best_of_row, dtype=torch.int64)
    rivals_of_column = torch.zeros_like(best_of_column, dtype=torch.int64)
    nan_tile = rivals_of_row.new_full((), -1)
    for number in _share(range(len(tiles))):
        rows, columns = tiles.spans(number)
        tile = _Tile(tiles, number, relevant_places.get(number))
        rivals_of_row[rows] += tile.rivals(best_of_row[rows], dim=1)
        rivals_of_column[columns] += tile.rivals(best_of_column[columns], dim=0)
        nan_tile.masked_fill_(tile.is_nan(), number)
    _reduce(nan_tile, dist.ReduceOp.MAX)
    if nan_tile >= 0:
        rows, columns = tiles.spans(int(nan_tile))
        raise ValueError(
            f"a score is NaN among images {rows.start} to {rows.stop - 1} "
            f"with texts {columns.start} to {columns.stop - 1}"
        )
    _reduce(rivals_of_row, dist.ReduceOp.SUM)
    _reduce(rivals_of_column, dist.ReduceOp.SUM)
    return rivals_of_row, rivals_of_column


class _Tile:
    """The rivals in a tile: other pairs that score as high as the best of these."""

    def __init__(
        self, tiles: Tiles, number: int, relevant_places: tuple[Tensor, Tensor] | None
    ) -> None:
        self.tiles, self.number, self.relevant_places = tiles, number, relevant_places
        self.scores = tiles.fast(number)

    def rivals(self, best: Tensor, dim: int) -> Tensor:
        """Return how many rivals each row (dim 1) or column (dim 0) has, int64."""
        best, error = best.unsqueeze(dim), self.tiles.error
        if error is None:
            return self._count(torch.ge, best, dim)[0]
        possible, mask = self._count(torch.ge, best - error, dim, -math.inf)
        if not possible.any():
            return possible
        certain, sure = self._count(torch.gt, best + error, dim, math.inf)
        if torch.equal(possible, certain):
            return certain
        return certain + self._decided(mask.sub_(sure) > 0, best, dim)

    def is_nan(self) -> Tensor:
        """Return whether a score is NaN, () bool."""
        found = self.scores.amax().isnan()
        # Products of what is infinite may be infinite, where the exact score is NaN.
        return found if "exact" not in self.__dict__ else found | self.exact.amax().isnan()

    def _count(
        self, compare: Callable[..., Tensor], limit: Tensor, dim: int, outwards: float | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compare scores with a limit: return the count by `dim`, and the places, as 1 and 0.

        What rounding does to the limit itself goes `outwards`.
        """
        limit = limit.to(self.scores.dtype)
        if outwards is not None:
            limit = limit.nextafter(limit.new_tensor(outwards))
        # As numbers: comparing and counting booleans takes three times as long.
        dtype = torch.promote_types(self.scores.dtype, torch.float32)
        mask = torch.empty_like(self.scores, dtype=dtype)
        compare(self.scores, limit, out=mask)
        if self.relevant_places is not None:
            mask[self.relevant_places] = 0
        return mask.sum(dim).long(), mask

    def _decided(self, doubtful: Tensor, best: Tensor, dim: int) -> Tensor:
        """Count the doubtful pairs whose exact score reaches the best, by `dim`."""
        if doubtful.sum() * DENSE > doubtful.numel():
            return ((self.exact >= best) & doubtful).sum(dim)
        i, j = doubtful.nonzero().unbind(1)
        reaches = self.tiles.reach(self.number, i, j, best.expand_as(doubtful)[i, j])
        counts = torch.zeros(doubtful.shape[1 - dim], dtype=torch.int64, device=doubtful.device)
        return counts.index_add_(0, (i, j)[1 - dim], reaches.long())

    @cached_property
    def exact(self) -> Tensor:
        """All exact scores, because many pairs are too close to decide."""
        return self.tiles.exact(self.number)


def _check_pairs(relevant_pairs: Tensor, num_images: int, num_texts: int) -> None:
    if (
        relevant_pairs.ndim != 2
        or relevant_pairs.shape[1] != 2
        or relevant_pairs.dtype != torch.int64
    ):
        raise ValueError(
            f"relevant_pairs must be (num_pairs, 2) int64, not {tuple(relevant_pairs.shape)} "
            f"{relevant_pairs.dtype}"
        )
    if not (num_images and num_texts):
        raise ValueError(f"nothing to rank: {num_images:,} images and {num_texts:,} texts")
    for name, items, size in (
        ("image", relevant_pairs[:, 0], num_images),
        ("text", relevant_pairs[:, 1], num_texts),
    ):
        if len(items) and not 0 <= int(items.min()) <= int(items.max()) < size:
            raise ValueError(f"relevant_pairs points beyond the {size:,} {name}s")
        lonely = (items.bincount(minlength=size) == 0).nonzero()[:, 0]
        if len(lonely):
            raise ValueError(
                f"{len(lonely):,} of {size:,} {name}s have no relevant partner and so no rank; "
                f"the first is {name} {int(lonely[0])}"
            )


def _share(numbers: Sequence[int]) -> Iterator[int]:
    """This process's part of the tiles; all of them where there is no process group."""
    if dist.is_available() and dist.is_initialized():
        numbers = numbers[dist.get_rank() :: dist.get_world_size()]
    return tracked(numbers, "tile")


def _reduce(tensor: Tensor, operation: dist.ReduceOp.RedOpType) -> None:
    if dist.is_available() and dist.is_initialized():
        with activity("waiting for the other ranks"):
            dist.all_reduce(tensor, operation)
