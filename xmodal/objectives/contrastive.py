"""Contrastive objectives: a pair's own score against those of the batch."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.distributed.collectives import sum_over_ranks, world_size
from xmodal.objectives.config import InfoNCEConfig
from xmodal.objectives.pairs import Pairs
from xmodal.objectives.pairwise import log_sum_exp


class InfoNCE(nn.Module):
    """InfoNCE with a learned temperature (van den Oord et al. 2018, CLIP: Radford et al. 2021).

    By rows, L = −(1/B) Σᵢ log softmaxⱼ(s xᵢ·yⱼ)ᵢ over the global batch of B pairs, s = eᵃ with a
    learned; by columns with x and y changed about; the symmetric form is the mean of both.
    Other pairs of the same id are no negatives. As positives (Khosla et al. 2020, equation 2),
    each counts the same, and the softmax is over all pairs:
    L = −(1/B) Σᵢ (1/|Pᵢ|) Σ_{p∈Pᵢ} log softmaxⱼ(s xᵢ·yⱼ)_p.
    """

    def __init__(self, config: InfoNCEConfig) -> None:
        super().__init__()
        self.config = config
        # One element rather than none: ZeRO cannot partition a parameter without dimensions.
        self.log_scale = nn.Parameter(torch.tensor([math.log(config.scale)]))
        self.monitors: dict[str, Tensor] = {}

    @property
    def scale(self) -> Tensor:
        """The inverse temperature s, (1,), at most `max_scale`."""
        clamped: Tensor = _ClampAbove.apply(self.log_scale, math.log(self.config.max_scale))
        return clamped.exp()

    def forward(self, x: Tensor, y: Tensor, ids: Tensor) -> Tensor:
        """Return this rank's share of the loss, (), of (pairs, dim), (pairs, dim), ids (pairs,)."""
        scale = self.scale
        self.monitors = {"temperature": 1 / scale.detach()}
        pairs = Pairs.of(x, y, ids, self.config.products)
        many = self.config.positives == "same_id"
        costs = (_many_positives if many else _own)(pairs, scale, self.config.tile)
        return pairs.mean(torch.stack(costs)[self._directions].mean(0))

    @property
    def _directions(self) -> slice:
        return {"both": slice(2), "rows": slice(1), "columns": slice(1, 2)}[self.config.direction]


def _own(pairs: Pairs, scale: Tensor, tile: int | None) -> tuple[Tensor, Tensor]:
    """Return −log softmax of each pair's own score by rows and by columns, (pairs,) each."""
    rows, columns = log_sum_exp(pairs.rows, pairs.all_y, pairs.both_ids, scale=scale, tile=tile)
    positives = scale * pairs.own_scores
    # log(1 + e^(N − p)), N of the negatives: log(e^N + e^p) − p would cancel for pairs that are
    # found without doubt, and leave them no gradient.
    return log1p_exp(rows - positives), log1p_exp(columns[pairs.own] - positives)


def _many_positives(pairs: Pairs, scale: Tensor, tile: int | None) -> tuple[Tensor, Tensor]:
    rows, columns = log_sum_exp(pairs.rows, pairs.all_y, scale=scale, tile=tile)
    _, label, size = torch.unique(pairs.all_ids, return_inverse=True, return_counts=True)
    sums = pairs.all_y.new_zeros(len(size), pairs.all_y.shape[1]).index_add(0, label, pairs.all_y)
    # The mean over columns of the scores of their rows is that over rows of their columns'.
    own = label[pairs.own]
    positives = scale * (pairs.x * (sums[own] / size[own, None])).sum(1)
    return rows - positives, columns[pairs.own] - positives


def log1p_exp(values: Tensor) -> Tensor:
    """Return log(1 + e^v) of each value, exact for great and small ones."""
    return torch.logaddexp(values, values.new_zeros(()))


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
