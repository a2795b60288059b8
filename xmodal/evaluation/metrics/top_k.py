"""The best items of each query, exactly, at about the price of the product of all with all.

A sweep over tiles of fast scores keeps the items that may be among the best: those no further below
the k-th fast score than rounding may have moved both. Exact scores put these in order.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from xmodal.evaluation.metrics.tiles import Choice, Tiles
from xmodal.methods.scores import Function, as_score, dot_product

Kept = tuple[Tensor, Tensor]  # values (rows, m) float64, and indices (rows, m)
GROUP = 96  # scores whose maximum is compared first; of 48 it takes six times as long


@torch.no_grad()
def top_k(
    queries: Tensor,
    gallery: Tensor,
    k: int,
    score: Function = dot_product,
    tile: int = 2048,
    removed: Choice | None = None,
) -> tuple[Tensor, Tensor]:
    """Find each query's k best items, best first; of equal scores the lowest index first.

    Works on the calling process alone.

    Args:
        queries: (num_queries, …) embeddings.
        gallery: (num_items, …) embeddings.
        k: number of items; all items where the gallery has fewer.
        score: maps blocks (a, …) of queries and (b, …) of items to scores (a, b), as of
            `count_ranks`.
        tile: about the largest side of a tile of scores.
        removed: items that a query must not retrieve; they come last, with a score of -inf.

    Returns:
        Exact scores (num_queries, k), float64, and int64 indices (num_queries, k).

    Raises:
        ValueError: a score is NaN.
    """
    tiles = Tiles(queries, gallery, as_score(score), tile, shared=False)
    found = [_of_row(tiles, row, min(k, len(gallery)), removed) for row in range(tiles.num_rows)]
    scores, indices = (torch.cat(parts) for parts in zip(*found, strict=True))
    return scores, indices


def _of_row(tiles: Tiles, row: int, k: int, removed: Choice | None) -> Kept:
    """Return scores and indices (rows, k) of the queries of a row of tiles."""
    numbers = range(row * tiles.num_columns, (row + 1) * tiles.num_columns)
    rows = tiles.spans(numbers[0])[0]
    gone = None
    if removed is not None:
        places = torch.arange(rows.start, rows.stop, device=tiles.rows.device)
        gone = removed(places).expand(len(places), -1)
    if tiles.error is None or not tiles.error.isfinite():
        return _exhaust(tiles, numbers, k, gone)
    found = _sweep(tiles, numbers, k, gone, float(tiles.error))
    return found if gone is None else _filled(*found, gone, k)


def _exhaust(tiles: Tiles, numbers: range, k: int, gone: Tensor | None) -> Kept:
    """Return the best by the exact scores of all tiles."""
    best: Kept | None = None
    for number in numbers:
        best = _joined(best, _best_of_tile(tiles, number, k, gone))
        # What was kept stands first and has the lower indices.
        best = _chosen(best, _first_of_stable_sort(best[0], k))
    assert best is not None
    return best


def _sweep(tiles: Tiles, numbers: range, k: int, gone: Tensor | None, error: float) -> Kept:
    """Return the best by exact scores of those that may be, by fast scores, within `error`."""
    kept: Kept | None = None  # values within the error of the exact scores, greatest first
    for number in numbers:
        span = tiles.spans(number)[1]
        scores = _masked(tiles.fast(number), gone, span)
        i, j = _reaching(scores, _kth(kept, scores, k) - 2 * error)
        if kept is not None and not len(i):
            continue
        # Of so many, exact scores alone can tell which are the best.
        few = len(i) <= 2 * k * len(scores)
        found = _padded(scores, i, j, span) if few else _best_of_tile(tiles, number, k, gone)
        kept = _pruned(_joined(kept, found), k, error)
        if kept[0].shape[1] > 2 * k + GROUP:
            kept = _resolved(tiles, tiles.spans(number)[0], kept, k)
    assert kept is not None
    return _resolved(tiles, tiles.spans(numbers[0])[0], kept, k)


def _best_of_tile(tiles: Tiles, number: int, k: int, gone: Tensor | None) -> Kept:
    """Return the best of a tile by its exact scores; raises `ValueError` where one is NaN."""
    scores, span = tiles.exact(number), tiles.spans(number)[1]
    if scores.amax().isnan():
        raise ValueError(f"a score is NaN among items {span.start} to {span.stop - 1}")
    scores = _masked(scores, gone, span)
    order = _first_of_stable_sort(scores, k)
    return scores.gather(1, order), order + span.start


def _masked(scores: Tensor, gone: Tensor | None, span: slice) -> Tensor:
    return scores if gone is None else scores.masked_fill(gone[:, span], -math.inf)


def _kth(kept: Kept | None, scores: Tensor, k: int) -> Tensor:
    """Return the k-th value of each query so far, (rows, 1) float64; the least where they lack."""
    values = scores if kept is None else kept[0]
    if values.shape[1] < k:
        return scores.new_full((len(scores), 1), -math.inf, dtype=torch.float64)
    return (values.topk(k).values if kept is None else values)[:, k - 1 : k].double()


def _reaching(scores: Tensor, floor: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows and columns, (n,) each, of the finite scores that reach `floor` (rows, 1)."""
    least = torch.finfo(scores.dtype).min
    floor = floor.to(scores.dtype).nextafter(floor.new_tensor(-math.inf).to(scores.dtype))
    floor = floor.clamp(min=least)
    groups = F.pad(scores, (0, -scores.shape[1] % GROUP), value=-math.inf)
    groups = groups.view(len(scores), -1, GROUP)
    i, group = (groups.amax(2) >= floor).nonzero(as_tuple=True)
    which, place = (groups[i, group] >= floor[i]).nonzero(as_tuple=True)
    return i[which], group[which] * GROUP + place


def _padded(scores: Tensor, i: Tensor, j: Tensor, span: slice) -> Kept:
    """Return places of a tile, in the order of its rows, as (rows, m) with -inf at the end."""
    counts = i.bincount(minlength=len(scores))
    place = torch.arange(len(i), device=i.device) - (counts.cumsum(0) - counts)[i]
    shape = len(scores), int(counts.max())
    values = scores.new_full(shape, -math.inf, dtype=torch.float64)
    indices = i.new_zeros(shape)
    values[i, place], indices[i, place] = scores[i, j].double(), j + span.start
    return values, indices


def _pruned(kept: Kept, k: int, error: float) -> Kept:
    """Return, greatest first, the items that may still be among the best."""
    values, order = kept[0].sort(dim=1, descending=True)
    if values.shape[1] <= k:
        return values, kept[1].gather(1, order)
    near = (values >= values[:, k - 1 : k] - 2 * error) & (values > -math.inf)
    most = max(k, int(near.sum(1).max()))
    return values[:, :most], kept[1].gather(1, order[:, :most])


def _resolved(tiles: Tiles, rows: slice, kept: Kept, k: int) -> Kept:
    """Return the k best by their exact scores."""
    values, indices = _chosen(kept, kept[1].argsort(dim=1))
    i, place = (values > -math.inf).nonzero(as_tuple=True)
    columns, j = indices[i, place].unique(return_inverse=True)
    if len(i):
        values[i, place] = tiles.score.chosen(tiles.rows[rows], tiles.columns[columns], i, j)
    return _chosen((values, indices), _first_of_stable_sort(values, k))


def _filled(scores: Tensor, indices: Tensor, gone: Tensor, k: int) -> Kept:
    """Return k items of each query, the first removed ones in the places of those that lack."""
    present = (scores > -math.inf).sum(1, keepdim=True)
    if (present == k).all():
        return scores, indices
    missing = k - scores.shape[1]
    scores, indices = F.pad(scores, (0, missing), value=-math.inf), F.pad(indices, (0, missing))
    last = gone.byte().sort(dim=1, descending=True, stable=True).indices
    which = (torch.arange(k, device=scores.device) - present).clamp(min=0)
    return scores, indices.where(scores > -math.inf, last.gather(1, which))


def _joined(kept: Kept | None, found: Kept) -> Kept:
    if kept is None:
        return found
    return torch.cat([kept[0], found[0]], 1), torch.cat([kept[1], found[1]], 1)


def _chosen(kept: Kept, order: Tensor) -> Kept:
    return kept[0].gather(1, order), kept[1].gather(1, order)


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
