"""Scores averaged by the softmax of other scores, which have no gradient: an expected score."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from xmodal.objectives.pairwise.engine import engine_for
from xmodal.objectives.pairwise.log_sum_exp import log_sum_exp
from xmodal.objectives.pairwise.tiles import add_product


def expected_scores(
    x: Tensor, y: Tensor, weights: tuple[Tensor, Tensor], *, tile: int | None = None
) -> Tensor:
    """Return Σᵢⱼ (softmaxⱼ(uᵢ·vⱼ) + softmaxᵢ(uᵢ·vⱼ)) xᵢ·yⱼ, (), over this rank's rows i.

    `x` is this rank's (rows, dim), `y` that of all ranks (columns, dim), `weights` are u and v of
    the same rows and columns, (rows, width) and (columns, width). The softmax of a column is over
    the rows of all ranks.
    """
    total: Tensor = _ExpectedScores.apply(x, y, weights, tile)
    return total


class _ExpectedScores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, weights: tuple[Tensor, Tensor], size: int | None
    ) -> Tensor:
        sums = log_sum_exp(*weights, tile=size)
        (rows, columns), ones = sums, [torch.ones_like(side) for side in sums]
        engine = engine_for(*weights, None, size)
        dx, dy = torch.zeros_like(x), torch.zeros_like(y)
        for i, j in engine.tiles.blocks():
            shares = engine.slopes(i, j, (rows[i], ones[0][i]), (columns[j], ones[1][j]))
            add_product(dx[i], shares, y[j])
            add_product(dy[j], shares.T, x[i])
        ctx.save_for_backward(dx, dy)
        return (x * dx).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return *(saved * gradients[0] for saved in ctx.saved_tensors), None, None
