"""The log-sum-exp of all scores together, its gradient found in the same pass.

The kernel of a GPU takes two: it writes slopes once, so they must have their reference before.
"""

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from xmodal.devices import is_on_host
from xmodal.distributed.collectives import sum_over_ranks
from xmodal.objectives.pairwise.engine import engine_of
from xmodal.objectives.pairwise.gradients import Gradients
from xmodal.objectives.pairwise.plain_engine import PlainEngine
from xmodal.objectives.pairwise.statistics import Statistics
from xmodal.objectives.pairwise.tiles import NoNegatives, Tiles

if TYPE_CHECKING:
    from xmodal.objectives.pairwise.triton_engine import TritonEngine

# How far a score may lie above the reference before all that was added up is rescaled, which takes
# as long as reading x and y: too seldom to be felt, and far from overflow.
SLACK = 20.0


def total_log_sum_exp(
    x: Tensor, y: Tensor, ids: NoNegatives | None = None, *, tile: int | None = None
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
        ctx: Any, x: Tensor, y: Tensor, ids: NoNegatives | None, size: int | None
    ) -> Tensor:
        tiles = Tiles(x, y, ids, size)
        engine = engine_of(tiles)
        found = engine.gradients(ctx.needs_input_grad[:2])
        if isinstance(engine, PlainEngine):
            total = _in_one_pass(tiles, found)
        else:
            total = _in_two_passes(engine, found)
        reference = total.reference
        total.add_ranks()
        value = total.value()
        # The value is −∞ without negatives, and the gradient no NaN.
        scale = (reference - value.clamp(min=torch.finfo(value.dtype).min)).exp()
        ctx.save_for_backward(*found.sums(), scale)
        return value[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        *sums, scale = ctx.saved_tensors
        scale = scale * sum_over_ranks(gradients[0])
        return *(None if saved is None else saved * scale for saved in sums), None, None


def _in_one_pass(tiles: Tiles, found: Gradients) -> Statistics:
    """Return the log-sum-exp of this rank, and add its gradient, referred to its reference."""
    total = Statistics.of_nothing(1, tiles)
    for tile in tiles:
        _raise_reference(total, tile.scores.amax(), found)
        weights = tile.scores.sub_(total.reference).exp_()
        total.sum += weights.sum()
        found.add(*tile.both, weights)
    return total


def _in_two_passes(engine: "TritonEngine", found: Gradients) -> Statistics:
    """Do the same, where the first pass finds the reference."""
    tiles = engine.tiles
    rows = Statistics.of_nothing(len(tiles.x), tiles)
    for i, _, by_row, _ in engine.statistics():
        rows.add(i, by_row)
    values = rows.value()
    least = torch.finfo(values.dtype).min
    reference = F.pad(values, (0, 1), value=least).amax()  # a rank may have no rows
    ones, zeros = torch.ones_like(values), torch.zeros(len(tiles.y), device=values.device)
    for i, j in tiles.blocks():
        sides = ((reference.expand_as(of), of) for of in (ones[i], zeros[j]))
        found.add(i, j, engine.slopes(i, j, *sides))
    return Statistics(reference[None], (values - reference).exp().sum()[None])


def _raise_reference(total: Statistics, top: Tensor, found: Gradients) -> None:
    """Refer all that was added up to the greatest score, if that is far above the reference."""
    is_far = top > total.reference + SLACK
    if is_on_host(is_far) and not is_far:
        return
    reference = torch.where(is_far, top, total.reference)
    shrink = (total.reference - reference).exp()
    total.reference = reference
    for sums in (total.sum, *found.sums()):
        if sums is not None:
            sums.mul_(shrink)
