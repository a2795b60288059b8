"""InfoNCE between sets of vectors, whose tokens seek their best matches (late interaction)."""

from typing import ClassVar

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from xmodal.components.component import Buildable
from xmodal.objectives.config import MatmulDtype, PairwiseConfig
from xmodal.objectives.info_nce import InfoNCE
from xmodal.objectives.numerics import log1p_exp
from xmodal.objectives.pairs import Pairs
from xmodal.objectives.pairwise import log_sum_exp
from xmodal.objectives.pairwise.token_sets import TokenSets, set_scores


class LateInteractionConfig(PairwiseConfig, Buildable):
    """InfoNCE between positions of images and words of texts, with a learned temperature."""

    scale: PositiveFloat = Field(1 / 0.07, description="initial inverse temperature")
    max_scale: PositiveFloat = Field(100.0, description="greatest inverse temperature")
    builds: ClassVar[str] = "LateInteraction"


class LateInteraction(InfoNCE):
    """InfoNCE of late interaction (FILIP: Yao et al. 2022, arXiv 2111.07783, equations 4 and 5).

    An image x of P positions and a text y of T words have two scores,
    s_I(x, y) = (1/P) Σ_p max_t x_p·y_t and s_T(x, y) = (1/T) Σ_t max_p x_p·y_t (ColBERT: Khattab
    and Zaharia 2020, arXiv 2004.12832, with a mean for its sum). Images are classified among texts
    by s_I, texts among images by s_T: L = −(1/2B) Σᵢ log softmaxⱼ(s s_I(xᵢ, yⱼ))ᵢ
    − (1/2B) Σⱼ log softmaxᵢ(s s_T(xᵢ, yⱼ))ⱼ over the global batch of B pairs, s = eᵃ with a
    learned. Other pairs of the same id are no negatives. Memory is linear in the batch: the P × T
    products of a pair exist a tile of pairs at a time. Of equal products the first counts.
    """

    def __init__(
        self,
        *,
        scale: float = 1 / 0.07,
        max_scale: float = 100.0,
        matmul_dtype: MatmulDtype = "float32",
        tile: int | None = None,
    ) -> None:
        super().__init__(scale=scale, max_scale=max_scale, matmul_dtype=matmul_dtype, tile=tile)

    def forward(self, x: Tensor, y: Tensor, ids: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """Return this rank's share of the loss, (), of sets of vectors, with ids (pairs,).

        x is (pairs, P, dim) and y (pairs, T, dim), P and T the same on all ranks; rows of zeros
        are padding, after a first row that counts.
        """
        scale = self.scale
        self.monitors = {"temperature": 1 / scale.detach()}
        pairs = Pairs.of(x, y, ids, self.matmul_dtype, several=True)
        rows, columns = log_sum_exp(
            pairs.rows,
            pairs.all_y,
            pairs.both_ids,
            scale=scale,
            tile=self.tile,
            form=TokenSets(),
        )
        of_x, of_y = set_scores(pairs.x, pairs.y)
        costs = log1p_exp(rows - scale * of_x), log1p_exp(columns[pairs.own] - scale * of_y)
        return pairs.mean(torch.stack(costs).mean(0))
