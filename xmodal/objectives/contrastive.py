"""Contrastive objectives: a pair's own score against those of the batch."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.distributed.collectives import sum_over_ranks, world_size
from xmodal.objectives.config import InfoNCEConfig
from xmodal.objectives.pairwise import log_sum_exp


class InfoNCE(nn.Module):
    """Symmetric InfoNCE with a learned temperature (CLIP, Radford et al. 2021, figure 3).

    L = −(1/2B) Σᵢ [log softmaxⱼ(s xᵢ·yⱼ)ᵢ + log softmaxⱼ(s xⱼ·yᵢ)ᵢ] over the global batch of B
    pairs, s = eᵃ with a learned. Other captions of an image are no negatives of it.
    """

    def __init__(self, config: InfoNCEConfig) -> None:
        super().__init__()
        # One element rather than none: ZeRO cannot partition a parameter without dimensions.
        self.log_scale = nn.Parameter(torch.tensor([math.log(config.scale)]))
        self.max_log_scale = math.log(config.max_scale)

    @property
    def scale(self) -> Tensor:
        """The inverse temperature s, (1,), at most `max_scale`."""
        clamped: Tensor = _ClampAbove.apply(self.log_scale, self.max_log_scale)
        return clamped.exp()

    def forward(self, images: Tensor, texts: Tensor, ids: Tensor) -> Tensor:
        """Return this rank's share of the loss, of embeddings (pairs, dim) and ids (pairs,)."""
        scale = self.scale
        self.temperature = 1 / scale.detach()
        sums = log_sum_exp(images, texts, scale, ids)
        return ((sums.rows + sums.columns) / 2 - sums.positives).mean()


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
