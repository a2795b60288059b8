"""The sigmoid objective: every pair of the batch judged by itself."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.objectives.config import SigmoidConfig
from xmodal.objectives.contrastive import log1p_exp
from xmodal.objectives.pairs import Pairs
from xmodal.objectives.pairwise import Cell, pair_sum


class Sigmoid(nn.Module):
    """The pairwise sigmoid loss of SigLIP (Zhai et al. 2023, arXiv 2303.15343).

    L = −(1/B) Σᵢ Σⱼ log σ(zᵢⱼ (s xᵢ·yⱼ + b)) over the global batch of B pairs, z = 1 for a pair's
    own score and −1 for all others; s = eᵃ, with a and the bias b learned. Divided by B, not B².
    Other pairs of the same id are left out.
    """

    def __init__(self, config: SigmoidConfig) -> None:
        super().__init__()
        self.config = config
        # One element rather than none: ZeRO cannot partition a parameter without dimensions.
        self.log_scale = nn.Parameter(torch.tensor([math.log(config.scale)]))
        self.bias = nn.Parameter(torch.tensor([config.bias]))
        self.monitors: dict[str, Tensor] = {}

    def forward(self, x: Tensor, y: Tensor, ids: Tensor) -> Tensor:
        """Return this rank's share of the loss, (), of (pairs, dim), (pairs, dim), ids (pairs,)."""
        scale = self.log_scale.exp()
        self.monitors = {"temperature": 1 / scale.detach(), "bias": self.bias.detach().clone()}
        pairs = Pairs.of(x, y, ids, self.config.products)
        negatives = pair_sum(
            _softplus,
            pairs.rows,
            pairs.all_y,
            pairs.both_ids,
            scale=scale,
            row_offset=self.bias.expand(len(x)),
            tile=self.config.tile,
        )
        return pairs.mean(log1p_exp(-scale * pairs.own_scores - self.bias).sum() + negatives)


def _softplus(scores: Tensor, row_offset: Tensor, _: Tensor) -> Cell:
    """log(1 + eᶻ), z = score + row offset."""
    logits = scores.add_(row_offset)
    slopes = logits.sigmoid()
    # From 40 on log(1 + eᶻ) is z, in float64 too.
    return Cell(F.softplus(logits, threshold=40).sum(), slopes, by_row=slopes.sum(1))
