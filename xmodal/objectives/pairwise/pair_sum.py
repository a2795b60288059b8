"""A sum of some function of all scores, its gradient found in the same pass."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from xmodal.objectives.pairwise.cells import CellFunction
from xmodal.objectives.pairwise.engine import engine_of
from xmodal.objectives.pairwise.tiles import Tiles, add_product, gradient_of_scale, precise


def pair_sum(
    function: CellFunction,
    x: Tensor,
    y: Tensor,
    ids: tuple[Tensor, Tensor] | None = None,
    *,
    scale: Tensor | None = None,
    row_offset: Tensor | None = None,
    column_offset: Tensor | None = None,
    tile: int | None = None,
) -> Tensor:
    """Return Σᵢⱼ f(s xᵢ·yⱼ, aᵢ, bⱼ), (), over this rank's rows and the columns of all ranks.

    `x` is this rank's (rows, dim), `y` that of all ranks (columns, dim), `ids` theirs (rows,) and
    (columns,). The scale s (1,) is 1 unless given, the offsets a (rows,) and b (columns,) are 0.
    The score of a pair that is no negative is −∞, where f and its derivatives must be 0. Of
    (rows, K, dim) and (columns, K, dim) the product is the greatest of K × K.
    """
    zeros = precise(x[:0]).new_zeros
    row_offset = zeros(len(x)) if row_offset is None else row_offset.to(zeros(0))
    column_offset = zeros(len(y)) if column_offset is None else column_offset.to(zeros(0))
    total: Tensor = _PairSum.apply(function, x, y, row_offset, column_offset, scale, ids, tile)
    return total


class _PairSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        function: CellFunction,
        x: Tensor,
        y: Tensor,
        row_offset: Tensor,
        column_offset: Tensor,
        scale: Tensor | None,
        ids: tuple[Tensor, Tensor] | None,
        size: int | None,
    ) -> Tensor:
        tiles = Tiles(x, y, ids, size, scale)
        inputs = (x, y, row_offset, column_offset)
        needed = list(ctx.needs_input_grad[1:5])
        needed[0] |= ctx.needs_input_grad[5]  # the scale's gradient follows from that by x
        dx, dy, by_row, by_column = (
            torch.zeros_like(tensor, dtype=row_offset.dtype) if is_needed else None
            for tensor, is_needed in zip(inputs, needed, strict=True)
        )
        total = row_offset.new_zeros(())
        engine = engine_of(tiles, function)
        for i, j in tiles.blocks():
            cell = engine.cell(function, i, j, row_offset[i], column_offset[j])
            total += cell.value
            if dx is not None:
                add_product(dx[i].flatten(0, -2), cell.slopes, y[j].flatten(0, -2), tiles.scale)
            if dy is not None:
                add_product(dy[j].flatten(0, -2), cell.slopes.T, x[i].flatten(0, -2), tiles.scale)
            if by_row is not None and cell.by_row is not None:
                by_row[i] += cell.by_row
            if by_column is not None and cell.by_column is not None:
                by_column[j] += cell.by_column
        by_scale = None if dx is None or scale is None else gradient_of_scale(tiles, dx)
        ctx.save_for_backward(dx, dy, by_row, by_column, by_scale)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        scaled = (None if saved is None else saved * gradients[0] for saved in ctx.saved_tensors)
        return None, *scaled, None, None
