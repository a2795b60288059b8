"""The sigmoid objective: every pair of the batch judged by itself."""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from xmodal.objectives.config import MatmulDtype, ObjectiveConfig, PairwiseConfig, check_choice
from xmodal.objectives.extra import Extra
from xmodal.objectives.numerics import log1p_exp
from xmodal.objectives.pairs import Pairs
from xmodal.objectives.pairwise import pair_sum
from xmodal.objectives.pairwise.cells import softplus_with_offset
from xmodal.objectives.pairwise.prefixes import Prefixes


class SigmoidConfig(PairwiseConfig, ObjectiveConfig):
    """Each pair classified by itself (SigLIP), with a learned temperature and bias."""

    kind: Literal["sigmoid"] = "sigmoid"
    scale: PositiveFloat = Field(10.0, description="initial inverse temperature")
    bias: float = Field(
        -10.0,
        description="initial bias: about −ln of the batch size, the number of negatives to a "
        "positive; a higher one (−3) suits small batches",
    )
    builds: ClassVar[str] = "Sigmoid"

    @property
    def skips_alike(self) -> bool:
        """It does."""
        return True

    takes_extra: ClassVar[bool] = True
    takes_widths: ClassVar[bool] = True


class Sigmoid(nn.Module):
    """The pairwise sigmoid loss of SigLIP (Zhai et al. 2023, arXiv 2303.15343).

    L = −(1/B) Σᵢ Σⱼ log σ(zᵢⱼ (s xᵢ·yⱼ + b)) over the global batch of B pairs, z = 1 for a
    positive score and −1 for all others; s = eᵃ, with a and the bias b learned. Divided by B, not
    B². Other pairs of the same id are skipped.
    """

    def __init__(
        self,
        *,
        scale: float = 10.0,
        bias: float = -10.0,
        matmul_dtype: MatmulDtype = "float32",
        tile: int | None = None,
    ) -> None:
        super().__init__()
        check_choice("matmul_dtype", matmul_dtype, MatmulDtype)
        self.matmul_dtype, self.tile = matmul_dtype, tile
        # One element rather than none: ZeRO cannot partition a parameter without dimensions.
        self.log_scale = nn.Parameter(torch.tensor([math.log(scale)]))
        self.bias = nn.Parameter(torch.tensor([float(bias)]))
        self.monitors: dict[str, Tensor] = {}

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        ids: Tensor | None = None,
        extra: Sequence[Extra] = (),
        prefixes: Prefixes | None = None,
    ) -> Tensor:
        """Return this rank's share of the loss, (), of (pairs, dim), (pairs, dim), ids (pairs,).

        `extra` columns are judged with every row as negatives. x and y may be (pairs, K, dim): a
        score is the greatest of K × K products.
        """
        scale = self.log_scale.exp()
        self.monitors = {"temperature": 1 / scale.detach(), "bias": self.bias.detach().clone()}
        pairs = Pairs.of(
            x, y, ids, self.matmul_dtype, extra, prefixes, several=True, skips_alike=True
        )
        positives = pairs.positive_scores
        bias = self.bias.expand_as(positives)
        negatives = pair_sum(
            softplus_with_offset,
            pairs.rows,
            pairs.all_y,
            pairs.no_negatives,
            scale=scale,
            row_offset=bias,
            tile=self.tile,
            form=prefixes,
        )
        for more in (*pairs.extra_negatives("y"), *pairs.extra_negatives("x")):
            added = more.sum(softplus_with_offset, bias, scale=scale, tile=self.tile)
            negatives = negatives + added
        costs = pairs.weighted(log1p_exp(-scale * positives - self.bias))
        return pairs.mean(costs.sum() + negatives)
