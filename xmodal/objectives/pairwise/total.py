"""The log-sum-exp of all scores together, its gradient found in the same pass."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from xmodal.devices import is_on_host
from xmodal.distributed.collectives import sum_over_ranks
from xmodal.objectives.pairwise.statistics import Statistics
from xmodal.objectives.pairwise.tiles import Tiles, add_product

# How far a score may lie above the reference before all that was added up is rescaled, which takes
# as long as reading x and y: too seldom to be felt, and far from overflow.
SLACK = 20.0


def total_log_sum_exp(
    x: Tensor, y: Tensor, ids: tuple[Tensor, Tensor] | None = None, *, tile: int | None = None
) -> Tensor:
    """Return log Σᵢⱼ exp(xᵢ·yⱼ), (), over the negatives of all rows of all ranks.

    `x` is this rank's (rows, dim), `y` that of all ranks (columns, dim), `ids` theirs (rows,) and
    (columns,). It is the same on every rank, and its gradient is summed over the ranks.
    Without negatives it is −∞.
    """
    total: Tensor = _TotalLogSumExp.apply(x, y, ids, tile)
    return total


class _TotalLogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, ids: tuple[Tensor, Tensor] | None, size: int | None
    ) -> Tensor:
        tiles = Tiles(x, y, ids, size)
        dx, dy = (
            torch.zeros_like(side, dtype=tiles.dtype) if needed else None
            for side, needed in zip((x, y), ctx.needs_input_grad[:2], strict=True)
        )
        total = Statistics.of_nothing(1, tiles)
        for tile in tiles:
            i, j = tile.both
            _raise_reference(total, tile.scores.amax(), dx, dy)
            weights = tile.scores.sub_(total.reference).exp_()
            total.sum += weights.sum()
            if dx is not None:
                add_product(dx[i], weights, y[j])
            if dy is not None:
                add_product(dy[j], weights.T, x[i])
        reference = total.reference
        total.add_ranks()
        value = total.value()
        # The value is −∞ without negatives, and the gradient no NaN.
        scale = (reference - value.clamp(min=torch.finfo(value.dtype).min)).exp()
        ctx.save_for_backward(dx, dy, scale)
        return value[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        *sums, scale = ctx.saved_tensors
        scale = scale * sum_over_ranks(gradients[0])
        return *(None if saved is None else saved * scale for saved in sums), None, None


def _raise_reference(total: Statistics, top: Tensor, dx: Tensor | None, dy: Tensor | None) -> None:
    """Refer all that was added up to the greatest score, if that is far above the reference."""
    is_far = top > total.reference + SLACK
    if is_on_host(is_far) and not is_far:
        return
    reference = torch.where(is_far, top, total.reference)
    shrink = (total.reference - reference).exp()
    total.reference = reference
    for sums in (total.sum, dx, dy):
        if sums is not None:
            sums.mul_(shrink)
