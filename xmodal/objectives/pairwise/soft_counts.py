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
from xmodal.objectives.pairwise.engine import Form, engine_for
from xmodal.objectives.pairwise.tiles import NoNegatives


def soft_counts(
    x: Tensor,
    y: Tensor,
    ids: NoNegatives,
    limits: tuple[Tensor, Tensor],
    *,
    scale: float,
    form: Form,
    tile: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return Σ σ(s x·y − a) over the negatives of every row, and of every column, for each limit a.

    `x` is this rank's (rows, dim), `y` that of all ranks (columns, dim), `ids` theirs (rows,) and
    (columns,), `limits` theirs (rows, n, 1) and (columns, n, 1), as are the sums; above +∞ there is
    nothing. A column's sum is over the rows of all ranks and the same on each; its gradient is
    summed over the ranks. Of a `form` of positives, the sums are over pairs of equal ids instead;
    of one with several scores a pair, limits and sums are (rows, n, widths) and so on.
    """
    exact = torch.tensor([scale], dtype=torch.float64)  # on the host, where it is a number
    rows, columns = _SoftCounts.apply(x, y, *limits, ids, exact, form, tile)
    return rows, columns


class _SoftCounts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        row_limits: Tensor,
        column_limits: Tensor,
        ids: NoNegatives,
        scale: Tensor,
        form: Form,
        size: int | None,
    ) -> tuple[Tensor, Tensor]:
        engine = engine_for(x, y, ids, size, scale, form=form)
        rows, columns = torch.zeros_like(row_limits), torch.zeros_like(column_limits)
        for i, j in engine.tiles.blocks():
            scores = engine.tiles.scores(i, j)
            rows[i] += _counts(scores, row_limits[i])
            columns[j] += _counts(scores.mT, column_limits[j])
        if world_size() > 1:
            dist.all_reduce(columns)
        ctx.engine = engine
        ctx.save_for_backward(row_limits, column_limits)
        return rows, columns

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        tiles, (row_limits, column_limits) = ctx.engine.tiles, ctx.saved_tensors
        row_weights, column_weights = gradients[0], sum_over_ranks(gradients[1])
        by_row, by_column = torch.zeros_like(row_limits), torch.zeros_like(column_limits)
        found = ctx.engine.gradients()
        for i, j in tiles.blocks():
            scores = tiles.scores(i, j)
            slopes = torch.zeros_like(scores)
            by_row[i] -= _add_slopes(slopes, scores, row_limits[i], row_weights[i])
            by_column[j] -= _add_slopes(slopes.mT, scores.mT, column_limits[j], column_weights[j])
            found.add(i, j, slopes)
        return *found.sums(), by_row, by_column, None, None, None, None


def _of_widths(scores: Tensor) -> Tensor:
    """Return scores (widths, rows, columns), 1 of (rows, columns)."""
    return scores if scores.ndim == 3 else scores[None]


def _counts(scores: Tensor, limits: Tensor) -> Tensor:
    """Return the sums of sigmoids, (rows, n, widths), of scores less limits (rows, n, widths)."""
    sums = [
        torch.stack([(of_width - limit[:, None]).sigmoid_().sum(1) for limit in some.T], 1)
        for of_width, some in zip(_of_widths(scores), limits.unbind(2), strict=True)
    ]
    return torch.stack(sums, 2)


def _add_slopes(total: Tensor, scores: Tensor, limits: Tensor, weights: Tensor) -> Tensor:
    """Add the slopes of weighted sums to `total`, and return those of each sum."""
    sums = torch.empty_like(limits)
    widths = zip(_of_widths(total), _of_widths(scores), strict=True)
    for number, (total_of_width, of_width) in enumerate(widths):
        for place in range(limits.shape[1]):
            slopes = (of_width - limits[:, place, number, None]).sigmoid_()
            slopes.addcmul_(slopes, slopes, value=-1).mul_(weights[:, place, number, None])
            total_of_width += slopes
            sums[:, place, number] = slopes.sum(1)
    return sums
