"""Exact ranks of the true items, counted in tiles of scores on all processes.

The scores of all images with all texts never exist at once. A first pass reads the true scores
out of the tiles that hold true pairs; one sweep over all tiles then counts the rivals of every
image and of every text. True scores come from the tiles in which their rivals are, because
another kernel would round them differently and make false ties or false wins.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from xmodal.activity import activity, tracked
from xmodal.evaluation.tiles import Choice, Places, Tiles
from xmodal.methods.method import Score


@dataclass(frozen=True)
class Ranks:
    """The 0-based rank of each query's best true item: how many wrong items score as high.

    Attributes:
        image_to_text: (num_images,) int64, ranks among the texts.
        text_to_image: (num_texts,) int64, ranks among the images.
    """

    image_to_text: Tensor
    text_to_image: Tensor


def dot_product(queries: Tensor, gallery: Tensor) -> Tensor:
    """Scores (a, b) of embeddings (a, dim) and (b, dim)."""
    return queries @ gallery.T


@torch.no_grad()
def count_ranks(
    images: Tensor,
    texts: Tensor,
    true_pairs: Tensor,
    score: Score = dot_product,
    tile: int = 2048,
) -> Ranks:
    """Rank every image's best true text and every text's best true image, exactly.

    All processes of the default group call it with the same arguments, on the device that the
    group communicates on; each scores its share of the tiles, all get the whole result. Ties
    count against the model.

    Args:
        images: (num_images, …) embeddings.
        texts: (num_texts, …) embeddings.
        true_pairs: (num_pairs, 2) int64, the (image, text) that are right; any number an item.
        score: maps blocks (a, …) of images and (b, …) of texts to scores (a, b).
        tile: about the largest side of a tile; sides are multiples of 48.

    Raises:
        ValueError: an image or text has no true partner, or a score is NaN.
    """
    _check_true_pairs(true_pairs, len(images), len(texts))
    tiles = Tiles(images, texts, score, tile)
    true_places = tiles.places(true_pairs)
    best = _best_true_scores(tiles, true_places)
    image_to_text, text_to_image = _count_rivals(tiles, true_places, *best)
    return Ranks(image_to_text, text_to_image)


@torch.no_grad()
def top_k(
    queries: Tensor,
    gallery: Tensor,
    k: int,
    score: Score = dot_product,
    tile: int = 2048,
    removed: Choice | None = None,
) -> tuple[Tensor, Tensor]:
    """Find each query's k best items, best first; of equal scores the lowest index first.

    Works on the calling process alone.

    Args:
        queries: (num_queries, …) embeddings.
        gallery: (num_items, …) embeddings.
        k: how many to find; all items where the gallery has fewer.
        score: maps blocks (a, …) of queries and (b, …) of items to scores (a, b).
        tile: about the largest side of a tile of scores.
        removed: what a query is not to find; it comes last, with a score of -inf.

    Returns:
        Scores (num_queries, k) and int64 indices (num_queries, k).

    Raises:
        ValueError: a score is NaN.
    """
    tiles = Tiles(queries, gallery, score, tile)
    found = [_top_k_of_row(tiles, row, k, removed) for row in range(tiles.num_rows)]
    scores, indices = (torch.cat(parts) for parts in zip(*found, strict=True))
    return scores, indices


def _top_k_of_row(tiles: Tiles, row: int, k: int, removed: Choice | None) -> tuple[Tensor, Tensor]:
    best: list[Tensor] = []
    if removed is not None:
        rows = tiles.spans(row * tiles.num_columns)[0]
        gone = removed(torch.arange(rows.start, rows.stop, device=tiles.rows.device))
    for number in range(row * tiles.num_columns, (row + 1) * tiles.num_columns):
        columns = tiles.spans(number)[1]
        scores = tiles.scores(number)
        if scores.amax().isnan():
            raise ValueError(f"a score is NaN among items {columns.start} to {columns.stop - 1}")
        if removed is not None:
            scores = scores.masked_fill(gone[:, columns], -math.inf)
        indices = torch.arange(columns.start, columns.stop, device=scores.device)
        candidates = [scores, indices.expand_as(scores)]
        if best:
            candidates = [torch.cat(both, 1) for both in zip(best, candidates, strict=True)]
        # What was kept stands first and has the lower indices.
        order = _first_of_stable_sort(candidates[0], k)
        best = [candidate.gather(1, order) for candidate in candidates]
    return best[0], best[1]


def _first_of_stable_sort(scores: Tensor, k: int) -> Tensor:
    """Return the first k places (rows, k) of scores (rows, n) in a stable sort, greatest first."""
    k = min(k, scores.shape[1])
    values, places = scores.topk(k, dim=1)
    # torch.topk is far faster, but leaves open which of equal scores it takes.
    if (scores >= values[:, -1:]).sum() > values.numel():
        return scores.sort(dim=1, descending=True, stable=True).indices[:, :k]
    places = places.sort(dim=1).values
    order = scores.gather(1, places).sort(dim=1, descending=True, stable=True).indices
    return places.gather(1, order)


def _best_true_scores(tiles: Tiles, true_places: Places) -> tuple[Tensor, Tensor]:
    # In float64, which holds the scores of every floating type exactly.
    best_of_row = tiles.rows.new_full((len(tiles.rows),), -math.inf, dtype=torch.float64)
    best_of_column = tiles.rows.new_full((len(tiles.columns),), -math.inf, dtype=torch.float64)
    for number in _share(list(true_places)):
        rows, columns = tiles.spans(number)
        places = true_places[number]
        true_scores = tiles.scores(number)[places].double()
        best_of_row[rows].scatter_reduce_(0, places[0], true_scores, "amax")
        best_of_column[columns].scatter_reduce_(0, places[1], true_scores, "amax")
    _reduce(best_of_row, dist.ReduceOp.MAX)
    _reduce(best_of_column, dist.ReduceOp.MAX)
    return best_of_row, best_of_column


def _count_rivals(
    tiles: Tiles,
    true_places: Places,
    best_of_row: Tensor,
    best_of_column: Tensor,
) -> tuple[Tensor, Tensor]:
    rivals_of_row = torch.zeros_like(best_of_row, dtype=torch.int64)
    rivals_of_column = torch.zeros_like(best_of_column, dtype=torch.int64)
    nan_tile = rivals_of_row.new_full((), -1)
    for number in _share(range(len(tiles))):
        rows, columns = tiles.spans(number)
        scores = tiles.scores(number)
        nan_tile.masked_fill_(scores.amax().isnan(), number)
        beats_row = scores >= best_of_row[rows, None].to(scores.dtype)
        beats_column = scores >= best_of_column[columns].to(scores.dtype)
        if number in true_places:
            beats_row[true_places[number]] = False
            beats_column[true_places[number]] = False
        # Summed in int64, as by default, booleans cost a third of the matrix product.
        rivals_of_row[rows] += beats_row.sum(1, dtype=torch.int32)
        rivals_of_column[columns] += beats_column.sum(0, dtype=torch.int32)
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


def _check_true_pairs(true_pairs: Tensor, num_images: int, num_texts: int) -> None:
    if true_pairs.ndim != 2 or true_pairs.shape[1] != 2 or true_pairs.dtype != torch.int64:
        raise ValueError(
            f"true_pairs must be (num_pairs, 2) int64, not {tuple(true_pairs.shape)} "
            f"{true_pairs.dtype}"
        )
    if not (num_images and num_texts):
        raise ValueError(f"nothing to rank: {num_images:,} images and {num_texts:,} texts")
    for name, items, size in (
        ("image", true_pairs[:, 0], num_images),
        ("text", true_pairs[:, 1], num_texts),
    ):
        if len(items) and not 0 <= int(items.min()) <= int(items.max()) < size:
            raise ValueError(f"true_pairs points beyond the {size:,} {name}s")
        lonely = (items.bincount(minlength=size) == 0).nonzero()[:, 0]
        if len(lonely):
            raise ValueError(
                f"{len(lonely):,} of {size:,} {name}s have no true partner and so no rank; "
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
