"""The log-sum-exp of every row and column of the scores."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from xmodal.distributed.collectives import sum_over_ranks, world_size
from xmodal.objectives.pairwise.tiles import Tile, Tiles, block_ranges, precise

# Where a tile's maxima or statistics lie within this of each other, one exponential serves rows
# and columns: what then underflows is a share of less than e⁻⁴⁰ of any sum.
SPREAD = 40.0


def log_sum_exp(
    x: Tensor, y: Tensor, ids: tuple[Tensor, Tensor] | None = None, *, tile: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return log Σ exp(x·y) over the negatives of every row (rows,) and of every column (columns,).

    `x` is this rank's (rows, dim), `y` that of all ranks (columns, dim), `ids` theirs (rows,) and
    (columns,). A column's sum is over the rows of all ranks and the same on each; its gradient is
    the sum of what all ranks ask of it. Without negatives it is −∞.
    """
    rows, columns = _LogSumExp.apply(precise(x), precise(y), ids, tile)
    return rows, columns


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, ids: tuple[Tensor, Tensor] | None, size: int | None
    ) -> tuple[Tensor, Tensor]:
        tiles = Tiles(x, y, ids, size)
        rows, columns = _Running(len(x), x), _Running(len(y), x)
        for tile in tiles:
            _add(tile, rows, columns)
        columns.merge_ranks()
        by_row, by_column = rows.value(), columns.value()
        ctx.tiles = tiles
        ctx.save_for_backward(x, y, by_row, by_column)
        return by_row, by_column

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        x, y, *sums = ctx.saved_tensors
        row_gradient, column_gradient = gradients[0], sum_over_ranks(gradients[1])
        # An empty sum is −∞, as are its scores: their difference must not be NaN.
        by_row, by_column = (values.clamp(min=torch.finfo(values.dtype).min) for values in sums)
        dx, dy = torch.zeros_like(x), torch.zeros_like(y)
        near = _Nearness(by_row, by_column, ctx.tiles.size)
        for tile in ctx.tiles:
            i, j = tile.both
            slopes = _slopes(
                tile.scores,
                by_row[i, None],
                by_column[j],
                row_gradient[i, None],
                column_gradient[j],
                near.middle(i, j),
            )
            dx[i].addmm_(slopes, y[j])
            dy[j].addmm_(slopes.T, x[i])
        return dx, dy, None, None


class _Running:
    """The log-sum-exp of what was added so far, as a maximum and a sum of exponentials below it."""

    def __init__(self, length: int, like: Tensor) -> None:
        self.max = like.new_full((length,), torch.finfo(like.dtype).min)
        self.sum = like.new_zeros(length)

    def raise_to(self, where: slice, top: Tensor) -> Tensor:
        """Refer the sums to a maximum that is no less than `top`, and return it."""
        old = self.max[where]
        new = torch.maximum(old, top)
        self.sum[where].mul_((old - new).exp_())
        self.max[where] = new
        return new

    def merge_ranks(self) -> None:
        """Add what all ranks have."""
        if world_size() == 1:
            return
        top = self.max.clone()
        dist.all_reduce(top, dist.ReduceOp.MAX)
        self.sum.mul_((self.max - top).exp_())
        dist.all_reduce(self.sum)
        self.max = top

    def value(self) -> Tensor:
        return self.max + self.sum.log()


def _add(tile: Tile, rows: _Running, columns: _Running) -> None:
    """Add a tile's scores, which are overwritten, to the sums of its rows and columns."""
    i, j = tile.both
    scores = tile.scores
    row_top = rows.raise_to(i, scores.amax(1))
    column_top = columns.raise_to(j, scores.amax(0))
    (row_low, row_high), (column_low, column_high) = row_top.aminmax(), column_top.aminmax()
    top = torch.maximum(row_high, column_high)
    if top - torch.minimum(row_low, column_low) < SPREAD:
        exponentials = scores.sub_(top).exp_()
        rows.sum[i] += exponentials.sum(1) * (top - row_top).exp()
        columns.sum[j] += exponentials.sum(0) * (top - column_top).exp()
    else:
        rows.sum[i] += (scores - row_top[:, None]).exp_().sum(1)
        columns.sum[j] += scores.sub_(column_top).exp_().sum(0)


class _Nearness:
    """Which blocks of rows and columns have statistics that are near to each other."""

    def __init__(self, by_row: Tensor, by_column: Tensor, size: int) -> None:
        self.size = size
        self.rows, self.columns = block_ranges(by_row, size), block_ranges(by_column, size)

    def middle(self, rows: slice, columns: slice) -> float | None:
        """Return what all statistics of a tile are near to, or None."""
        ends = *self.rows[rows.start // self.size], *self.columns[columns.start // self.size]
        low, high = min(ends), max(ends)
        return low + (high - low) / 2 if high - low < SPREAD else None


def _slopes(
    scores: Tensor,
    by_row: Tensor,
    by_column: Tensor,
    row_gradient: Tensor,
    column_gradient: Tensor,
    middle: float | None,
) -> Tensor:
    """Return gᵢ exp(sᵢⱼ − rᵢ) + gⱼ exp(sᵢⱼ − cⱼ), in place of the scores where it can."""
    if middle is not None:
        row_weights = row_gradient * (middle - by_row).exp()
        column_weights = column_gradient * (middle - by_column).exp()
        return scores.sub_(middle).exp_().mul_(row_weights + column_weights)
    slopes = (scores - by_row).exp_().mul_(row_gradient)
    return slopes.addcmul_(scores.sub_(by_column).exp_(), column_gradient)
