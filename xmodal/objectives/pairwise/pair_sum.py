"""A sum of some function of all scores, its gradient found in the same pass."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from xmodal.objectives.pairwise.cells import CellFunction
from xmodal.objectives.pairwise.engine import Form, engine_for
from xmodal.objectives.pairwise.tiles import NoNegatives, precise


def pair_sum(
    function: CellFunction,
    x: Tensor,
    y: Tensor,
    ids: NoNegatives | None = None,
    *,
    scale: Tensor | None = None,
    row_offset: Tensor | None = None,
    column_offset: Tensor | None = None,
    tile: int | None = None,
    form: Form | None = None,
) -> Tensor:
    """Return Σᵢⱼ f(s xᵢ·yⱼ, aᵢ, bⱼ), (), over this rank's rows and the columns of all ranks.

    `x` is this rank's (rows, dim), `y` that of all ranks (columns, dim), `ids` theirs (rows,) and
    (columns,). The scale s (1,) is 1 unless given, the offsets a (rows,) and b (columns,) are 0.
    The score of a pair that is no negative is −∞, where f and its derivatives must be 0. Of
    (rows, K, dim) and (columns, K, dim) the product is the greatest of K × K. Of a `form` with
    several scores a pair, offsets are (rows, n) and (columns, n), and its own weights sum them.
    """
    zeros = precise(x[:0]).new_zeros
    of_pair = form.of_pair if form else ()
    row_offset = zeros(len(x), *of_pair) if row_offset is None else row_offset.to(zeros(0))
    column_offset = zeros(len(y), *of_pair) if column_offset is None else column_offset.to(zeros(0))
    total: Tensor = _PairSum.apply(
        function, x, y, row_offset, column_offset, scale, ids, tile, form
    )
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
        ids: NoNegatives | None,
        size: int | None,
        form: Form | None,
    ) -> Tensor:
        needed = list(ctx.needs_input_grad[1:5])
        needed[0] |= ctx.needs_input_grad[5]  # the scale's gradient follows from that by x
        by_row, by_column = (
            torch.zeros_like(offset) if is_needed else None
            for offset, is_needed in zip((row_offset, column_offset), needed[2:], strict=True)
        )
        total = row_offset.new_zeros(())
        engine = engine_for(x, y, ids, size, scale, function, form)
        found = engine.gradients(needed[:2])
        for i, j in engine.tiles.blocks():
            cell = engine.cell(function, i, j, row_offset[i], column_offset[j])
            total += cell.value
            found.add(i, j, cell.slopes)
            if by_row is not None and cell.by_row is not None:
                by_row[i] += cell.by_row
            if by_column is not None and cell.by_column is not None:
                by_column[j] += cell.by_column
        by_scale = found.by_scale() if needed[0] and scale is not None else None
        ctx.save_for_backward(*found.sums(), by_row, by_column, by_scale)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        scaled = (None if saved is None else saved * gradients[0] for saved in ctx.saved_tensors)
        return None, *scaled, None, None, None
