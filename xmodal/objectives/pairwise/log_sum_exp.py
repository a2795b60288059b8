"""The log-sum-exp of every row and column of the scores."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from xmodal.distributed.collectives import sum_over_ranks
from xmodal.objectives.pairwise.engine import engine_of
from xmodal.objectives.pairwise.statistics import Statistics
from xmodal.objectives.pairwise.tiles import Tiles, add_product, gradient_of_scale


def log_sum_exp(
    x: Tensor,
    y: Tensor,
    ids: tuple[Tensor, Tensor] | None = None,
    *,
    scale: Tensor | None = None,
    tile: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Return log Σ exp(s x·y) over the negatives of every row, (rows,), and column, (columns,).

    `x` is this rank's (rows, dim), `y` that of all ranks (columns, dim), `ids` theirs (rows,) and
    (columns,), `scale` s (1,), 1 unless given. A column's sum is over the rows of all ranks and
    the same on each; its gradient is summed over the ranks. Without negatives it
    is −∞.
    """
    rows, columns = _LogSumExp.apply(x, y, scale, ids, tile)
    return rows, columns


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        scale: Tensor | None,
        ids: tuple[Tensor, Tensor] | None,
        size: int | None,
    ) -> tuple[Tensor, Tensor]:
        tiles = Tiles(x, y, ids, size, scale)
        engine = engine_of(tiles)
        rows, columns = (Statistics.of_nothing(len(side), tiles) for side in (x, y))
        for i, j, by_row, by_column in engine.statistics():
            rows.add(i, by_row)
            columns.add(j, by_column)
        columns.add_ranks()
        ctx.engine = engine
        ctx.save_for_backward(x, y, rows.value(), columns.value())
        return rows.value(), columns.value()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, y, *sums = ctx.saved_tensors
        row_gradient, column_gradient = gradients[0], sum_over_ranks(gradients[1])
        # An empty sum is −∞, as are its scores: their difference must not be NaN.
        rows, columns = (values.clamp(min=torch.finfo(values.dtype).min) for values in sums)
        tiles = ctx.engine.tiles
        dx, dy = (torch.zeros_like(side, dtype=tiles.dtype) for side in (x, y))
        for i, j in tiles.blocks():
            slopes = ctx.engine.slopes(
                i, j, (rows[i], row_gradient[i]), (columns[j], column_gradient[j])
            )
            add_product(dx[i], slopes, y[j], tiles.scale)
            add_product(dy[j], slopes.T, x[i], tiles.scale)
        by_scale = gradient_of_scale(tiles, dx) if ctx.needs_input_grad[2] else None
        return dx, dy, by_scale, None, None
