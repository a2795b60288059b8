"""The log-sum-exp of all scores together, its gradient found in the same pass.

The kernel of a GPU takes two: it writes slopes once, so they must have their reference before.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from xmodal.devices import is_on_host
from xmodal.distributed.collectives import sum_over_ranks
from xmodal.objectives.pairwise.engine import engine_of
from xmodal.objectives.pairwise.plain_engine import PlainEngine
from xmodal.objectives.pairwise.statistics import Statistics
from xmodal.objectives.pairwise.tiles import Tiles, add_product

if TYPE_CHECKING:
    from xmodal.objectives.pairwise.triton_engine import TritonEngine

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
        engine = engine_of(tiles)
        if isinstance(engine, PlainEngine):
            total = _in_one_pass(tiles, dx, dy)
        else:
            total = _in_two_passes(engine, dx, dy)
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


def _in_one_pass(tiles: Tiles, dx: Tensor | None, dy: Tensor | None) -> Statistics:
    """Return the log-sum-exp of this rank, and add its gradient, referred to its reference."""
    total = Statistics.of_nothing(1, tiles)
    for tile in tiles:
        _raise_reference(total, tile.scores.amax(), dx, dy)
        weights = tile.scores.sub_(total.reference).exp_()
        total.sum += weights.sum()
        _add_products(tiles, *tile.both, weights, dx, dy)
    return total


def _in_two_passes(engine: "TritonEngine", dx: Tensor | None, dy: Tensor | None) -> Statistics:
    """Do the same, where the first pass finds the reference."""
    tiles = engine.tiles
    rows = Statistics.of_nothing(len(tiles.x), tiles)
    for i, _, by_row, _ in engine.statistics():
        rows.add(i, by_row)
    values = rows.value()
    reference = values.amax().clamp(min=torch.finfo(values.dtype).min)
    ones, zeros = torch.ones_like(values), torch.zeros(len(tiles.y), device=values.device)
    for i, j in tiles.blocks():
        sides = ((reference.expand_as(of), of) for of in (ones[i], zeros[j]))
        _add_products(tiles, i, j, engine.slopes(i, j, *sides), dx, dy)
    return Statistics(reference[None], (values - reference).exp().sum()[None])


def _add_products(
    tiles: Tiles, i: slice, j: slice, weights: Tensor, dx: Tensor | None, dy: Tensor | None
) -> None:
    if dx is not None:
        add_product(dx[i], weights, tiles.y[j])
    if dy is not None:
        add_product(dy[j], weights.T, tiles.x[i])


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
