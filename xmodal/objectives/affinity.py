"""Affinity distillation: the student's scores of all pairs distributed as the teacher's."""

import math
from typing import ClassVar

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from xmodal.components.component import Buildable
from xmodal.objectives.config import TiledConfig
from xmodal.objectives.learned_scale import clamped_exp
from xmodal.objectives.pairs import Pairs
from xmodal.objectives.pairwise import log_sum_exp
from xmodal.objectives.pairwise.soft_targets import SoftTargets
from xmodal.objectives.pairwise.tiles import precise


class AffinityConfig(TiledConfig, Buildable):
    """Divergence of the student's softmax over the global batch from the teacher's."""

    teacher_scale: PositiveFloat = Field(
        100.0, description="inverse temperature of the teacher's scores; 100 is that of CLIP"
    )
    scale: PositiveFloat = Field(1 / 0.07, description="initial inverse temperature; learned")
    max_scale: PositiveFloat = Field(100.0, description="greatest inverse temperature")
    builds: ClassVar[str] = "Affinity"


class Affinity(nn.Module):
    """Affinity distillation with a learned temperature (Vasu et al. 2024, arXiv 2311.17049,
    equation 2; CRD of Yang et al. 2024, arXiv 2307.12732, equations 5 to 7).

    L = ½ (1/B) Σᵢ KL(softmaxⱼ(ŝ x̂ᵢ·ŷⱼ) ‖ softmaxⱼ(s xᵢ·yⱼ)) + ½ of the same by columns, over all
    pairs of the global batch; x̂ and ŷ are the teacher's embeddings and ŝ its scale, s = eᵃ with a
    learned. Other pairs of an image count too: the teacher says how much. No matrix is kept: with
    S and T the log-sum-exp of the student and the teacher, a row's divergence is
    S − T + Σⱼ Pⱼ (tⱼ − sⱼ), whose last sum is linear in the scores.
    """

    def __init__(
        self,
        *,
        teacher_scale: float = 100.0,
        scale: float = 1 / 0.07,
        max_scale: float = 100.0,
        tile: int | None = None,
    ) -> None:
        super().__init__()
        self.teacher_scale, self.max_scale, self.tile = teacher_scale, max_scale, tile
        # One element rather than none: ZeRO cannot partition a parameter without dimensions.
        self.log_scale = nn.Parameter(torch.tensor([math.log(scale)]))
        self.monitors: dict[str, Tensor] = {}

    def forward(self, x: Tensor, y: Tensor, teacher_x: Tensor, teacher_y: Tensor) -> Tensor:
        """Return this rank's share of the loss, (), of (pairs, dim) twice, and of the teacher's
        (pairs, dim of the teacher) twice.
        """
        scale = clamped_exp(self.log_scale, self.max_scale)
        self.monitors = {"affinity_temperature": 1 / scale.detach()}
        pairs, dtype = Pairs.of(x, y), precise(x[:0]).dtype
        taught = Pairs.of(teacher_x.detach().to(dtype), teacher_y.detach().to(dtype))
        rows, columns = log_sum_exp(pairs.x, pairs.all_y, scale=scale, tile=self.tile)
        fixed = torch.full_like(scale, self.teacher_scale)
        targets = SoftTargets.of(taught.x, taught.all_y, fixed, self.tile)
        totals = rows - targets.rows + columns[pairs.own] - targets.columns[pairs.own]
        teachers = fixed * targets.expected(taught.x, taught.all_y)
        students = scale * targets.expected(pairs.x, pairs.all_y)
        return pairs.mean((totals.sum() + (teachers - students).sum()) / 2)
