"""Softmax distributions of scores as targets of other scores, never kept as a matrix."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from xmodal.objectives.pairwise.engine import engine_of
from xmodal.objectives.pairwise.log_sum_exp import log_sum_exp
from xmodal.objectives.pairwise.tiles import Tiles, add_product


@dataclass(frozen=True)
class SoftTargets:
    """The softmax P of scores s x·y by rows and P′ by columns, of all pairs and without gradient.

    `x` is this rank's (rows, dim), `y` that of all ranks (columns, dim). P and P′ are given by
    the log-sum-exp of every row, (rows,), and column, (columns,), and computed a tile at a time.
    """

    x: Tensor
    y: Tensor
    scale: Tensor  # (1,)
    tile: int | None
    rows: Tensor
    columns: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, x: Tensor, y: Tensor, scale: Tensor, tile: int | None = None) -> "SoftTargets":
        """Return the distributions of the scores of this rank's x and all ranks' y."""
        return cls(x, y, scale, tile, *log_sum_exp(x, y, scale=scale, tile=tile))

    def expected(self, x: Tensor, y: Tensor) -> Tensor:
        """Return Σᵢⱼ (Pᵢⱼ + P′ᵢⱼ) xᵢ·yⱼ, (), over this rank's rows and the columns of all ranks.

        `x` (rows, dim) and `y` (columns, dim) are in the precision of the targets.
        """
        total: Tensor = _Expected.apply(x, y, self)
        return total


class _Expected(torch.autograd.Function):
    """Bilinear in x and y: the pass that finds the value finds both gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, targets: SoftTargets) -> Tensor:
        tiles = Tiles(targets.x, targets.y, None, targets.tile, targets.scale)
        engine = engine_of(tiles)
        ones = [torch.ones_like(sums) for sums in (targets.rows, targets.columns)]
        dx = torch.zeros_like(x)
        dy = torch.zeros_like(y) if ctx.needs_input_grad[1] else None
        for i, j in tiles.blocks():
            weights = engine.slopes(
                i, j, (targets.rows[i], ones[0][i]), (targets.columns[j], ones[1][j])
            )
            add_product(dx[i], weights, y[j])
            if dy is not None:
                add_product(dy[j], weights.T, x[i])
        ctx.save_for_backward(dx, dy)
        return (x * dx).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return *(None if one is None else one * gradients[0] for one in ctx.saved_tensors), None
