"""A scale of scores that is learned as its logarithm, up to a limit."""

import math
from typing import Any

import torch
from torch import Tensor

from xmodal.distributed.collectives import sum_over_ranks, world_size


def clamped_exp(log_scale: Tensor, limit: float) -> Tensor:
    """Return the scale, at most `limit`, with the gradient that `_ClampAbove` lets pass."""
    clamped: Tensor = _ClampAbove.apply(log_scale, math.log(limit))
    return clamped.exp()


class _ClampAbove(torch.autograd.Function):
    """min(value, limit); at the limit only gradients that lead back below it pass.

    A plain clamp has no gradient above the limit: a temperature that once stepped over would stay.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, limit: float) -> Tensor:
        ctx.save_for_backward(value >= limit)
        return value.clamp(max=limit)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (at_limit,) = ctx.saved_tensors
        # The ranks' shares may differ in sign: only their mean says which way the step would go.
        gradient = sum_over_ranks(gradients[0]) / world_size()
        return gradient.masked_fill(at_limit & (gradient < 0), 0.0), None
