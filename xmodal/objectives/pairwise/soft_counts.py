"""Soft counts of the scores of every row and column above limits: ranks with a gradient.

Every row has several limits, such as the scores of its positives. A tile is multiplied once for all
of them; only its sigmoids are taken for each.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from xmodal.distributed.collectives import sum_over_ranks, world_size
from xmodal.objectives.pairwise.gradients import Gradients
from xmodal.objectives.pairwise.tiles import Tiles


def soft_counts(
    x: Tensor,
    y: Tensor,
    ids: tuple[Tensor, Tensor],
    limits: tuple[Tensor, Tensor],
    *,
    positives: bool = False,
    tile: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return Σ σ(x·y − a) over the negatives of every row, and of every column, for each limit a.

    `x` is this rank's (rows, dim), `y` that of all ranks (columns, dim), `ids` theirs (rows,) and
    (columns,), `limits` theirs (rows, n) and (columns, n), as are the sums; above +∞ there is
    nothing. A column's sum is over the rows of all ranks and the same on each; its gradient is
    summed over the ranks. With `positives`, the sums are over pairs of equal ids instead.
    """
    rows, columns = _SoftCounts.apply(x, y, *limits, ids, positives, tile)
    return rows, columns


class _SoftCounts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        row_limits: Tensor,
        column_limits: Tensor,
        ids: tuple[Tensor, Tensor],
        positives: bool,
        size: int | None,
    ) -> tuple[Tensor, Tensor]:
        tiles = Tiles(x, y, ids, size, positives=positives)
        rows, columns = torch.zeros_like(row_limits), torch.zeros_like(column_limits)
        for i, j in tiles.blocks():
            scores = tiles.scores(i, j)
            rows[i] += _counts(scores, row_limits[i])
            columns[j] += _counts(scores.T, column_limits[j])
        if world_size() > 1:
            dist.all_reduce(columns)
        ctx.tiles = tiles
        ctx.save_for_backward(row_limits, column_limits)
        return rows, columns

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        tiles, (row_limits, column_limits) = ctx.tiles, ctx.saved_tensors
        row_weights, column_weights = gradients[0], sum_over_ranks(gradients[1])
        by_row, by_column = torch.zeros_like(row_limits), torch.zeros_like(column_limits)
        found = Gradients(tiles)
        for i, j in tiles.blocks():
            scores = tiles.scores(i, j)
            slopes = torch.zeros_like(scores)
            by_row[i] -= _add_slopes(slopes, scores, row_limits[i], row_weights[i])
            by_column[j] -= _add_slopes(slopes.T, scores.T, column_limits[j], column_weights[j])
            found.add(i, j, slopes)
        return *found.sums(), by_row, by_column, None, None, None


def _counts(scores: Tensor, limits: Tensor) -> Tensor:
    """Return the sums of sigmoids, (rows, n), of scores (rows, columns) less limits (rows, n)."""
    sums = [(scores - limit[:, None]).sigmoid_().sum(1) for limit in limits.T]
    return torch.stack(sums, 1)


def _add_slopes(total: Tensor, scores: Tensor, limits: Tensor, weights: Tensor) -> Tensor:
    """Add to `total` the slopes of weighted sums, and return those of each sum, (rows, n)."""
    sums = []
    for limit, weight in zip(limits.T, weights.T, strict=True):
        slopes = (scores - limit[:, None]).sigmoid_()
        slopes.addcmul_(slopes, slopes, value=-1).mul_(weight[:, None])
        total += slopes
        sums.append(slopes.sum(1))
    return torch.stack(sums, 1)
