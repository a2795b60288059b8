"""The log-sum-exp of every row and column of the scores."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from xmodal.distributed.collectives import sum_over_ranks
from xmodal.objectives.pairwise.engine import Form, engine_for
from xmodal.objectives.pairwise.statistics import Statistics
from xmodal.objectives.pairwise.tiles import NoNegatives


def log_sum_exp(
    x: Tensor,
    y: Tensor,
    ids: NoNegatives | None = None,
    *,
    scale: Tensor | None = None,
    tile: int | None = None,
    form: Form | None = None,
) -> tuple[Tensor, Tensor]:
    """Return log Σ exp(s x·y) over the negatives of every row, (rows,), and column, (columns,).

    `x` is this rank's (rows, dim), `y` that of all ranks (columns, dim), `ids` theirs (rows,) and
    (columns,), `scale` s (1,), 1 unless given. A column's sum is over the rows of all ranks and
    the same on each; its gradient is summed over the ranks. Without negatives it
    is −∞. Scores of another `form` than x·y may be several of a pair: (rows, n) and (columns, n).
    """
    rows, columns = _LogSumExp.apply(x, y, scale, ids, tile, form)
    return rows, columns


class _LogSumExp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        y: Tensor,
        scale: Tensor | None,
        ids: NoNegatives | None,
        size: int | None,
        form: Form | None,
    ) -> tuple[Tensor, Tensor]:
        engine = engine_for(x, y, ids, size, scale, form=form)
        rows, columns = (Statistics.of_nothing(len(side), engine.tiles) for side in (x, y))
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
        _, _, *sums = ctx.saved_tensors  # which complains of embeddings that were changed since
        row_gradient, column_gradient = gradients[0], sum_over_ranks(gradients[1])
        # An empty sum is −∞, as are its scores: their difference must not be NaN.
        rows, columns = (values.clamp(min=torch.finfo(values.dtype).min) for values in sums)
        engine = ctx.engine
        found = engine.gradients()
        for i, j in engine.tiles.blocks():
            slopes = engine.slopes(
                i, j, (rows[i], row_gradient[i]), (columns[j], column_gradient[j])
            )
            found.add(i, j, slopes)
        by_scale = found.by_scale() if ctx.needs_input_grad[2] else None
        return *found.sums(), by_scale, None, None, None
