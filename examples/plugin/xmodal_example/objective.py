"""An objective: InfoNCE whose positives have to win by an angle (ArcFace, Deng et al. 2019)."""

import math
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from xmodal.objectives import ObjectiveConfig, Pairs, log_sum_exp


class AngularConfig(ObjectiveConfig):
    """InfoNCE over the global batch with an angular margin."""

    # The name by which recipes choose it: `method.objective={kind: angular}`.
    kind: Literal["angular"] = "angular"
    margin: float = Field(0.1, ge=0, lt=math.pi / 2, description="angle, radians")
    scale: PositiveFloat = Field(16.0, description="inverse temperature")
    # The class that it describes: it takes the fields above by their names.
    builds: ClassVar[str] = "Angular"


class Angular(nn.Module):
    """InfoNCE with an additive angular margin m.

    L = −(1/B) Σᵢ log [e^{s cos(θᵢᵢ + m)} / (e^{s cos(θᵢᵢ + m)} + Σⱼ e^{s cos θᵢⱼ})] over the global
    batch of B pairs, j over the negatives of i; the mean of both directions.
    """

    def __init__(self, *, margin: float = 0.1, scale: float = 16.0) -> None:
        super().__init__()
        self.margin, self.scale = margin, scale
        self.monitors: dict[str, Tensor] = {}  # logged every step, beside the loss

    def forward(self, x: Tensor, y: Tensor, ids: Tensor | None = None) -> Tensor:
        """Return this rank's share of the loss, (), of unit vectors (pairs, dim), ids (pairs,)."""
        # This rank's pairs beside those of all ranks. Pairs of one id are no negatives.
        pairs = Pairs.of(x, y, ids)
        cosines = pairs.positive_scores
        self.monitors = {"positive_cosine": pairs.mean(cosines.detach())}
        # The scores of all pairs are computed tile by tile, and are never in memory together.
        scale = x.new_tensor([self.scale])
        rows, columns = log_sum_exp(pairs.rows, pairs.all_y, pairs.both_ids, scale=scale)
        negatives = torch.stack([rows, columns[pairs.own]])
        positives = self.scale * add_angle(cosines, self.margin)
        # −log [eᵖ / (eᵖ + eⁿ)] = log(1 + eⁿ⁻ᵖ), and `mean` is over the batch of all ranks.
        return pairs.mean(F.softplus(negatives - positives).mean(0))


def add_angle(cosines: Tensor, angle: float) -> Tensor:
    """Return cos(θ + angle) of cos θ; beyond θ = π − angle it stays at −1."""
    sines = (1 - cosines**2).clamp(min=1e-6).sqrt()  # at 0 the root has no gradient
    moved = cosines * math.cos(angle) - sines * math.sin(angle)
    return torch.where(cosines > -math.cos(angle), moved, -1.0)
