"""Soft relevance: InfoNCE whose targets are shared among captions that mean about the same."""

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from xmodal.distributed.collectives import gather
from xmodal.objectives.config import ObjectiveConfig, TiledConfig
from xmodal.objectives.extra import Extra
from xmodal.objectives.learned_scale import clamped_exp
from xmodal.objectives.negatives import add_log_sum_exp
from xmodal.objectives.pairs import Pairs
from xmodal.objectives.pairwise import log_sum_exp
from xmodal.objectives.pairwise.prefixes import Prefixes
from xmodal.objectives.pairwise.soft_targets import SoftTargets
from xmodal.objectives.pairwise.tiles import precise


class SoftRelevanceConfig(TiledConfig, ObjectiveConfig):
    """InfoNCE with soft targets, by the similarity of captions to each other."""

    kind: Literal["soft_relevance"] = "soft_relevance"
    scale: PositiveFloat = Field(1 / 0.07, description="initial inverse temperature")
    max_scale: PositiveFloat = Field(100.0, description="greatest inverse temperature")
    weight: float = Field(
        0.2, ge=0, le=1, description="share of the targets that is soft; the rest is of the ids"
    )
    temperature: PositiveFloat = Field(
        0.1, description="temperature of the softmax of captions' similarities"
    )
    builds: ClassVar[str] = "SoftRelevance"
    takes_extra: ClassVar[bool] = True
    takes_widths: ClassVar[bool] = True


class SoftRelevance(nn.Module):
    """Cross-entropy of InfoNCE's softmax to a matrix of relevance, with a learned temperature.

    L = −(1/2B) Σᵢⱼ (Tᵢⱼ log softmaxⱼ(s xᵢ·yⱼ) + Tⱼᵢ log softmaxᵢ(s xᵢ·yⱼ)), over the global batch
    of B pairs. Tᵢⱼ = (1 − w) [j ∈ Pᵢ] / |Pᵢ| + w softmaxⱼ(uᵢ·uⱼ / τ), where Pᵢ are the pairs of its
    id, and u describe the pairs: their labels, embeddings by a frozen model, or else y themselves
    (as in SoftCLIP, Gao et al. 2023, arXiv 2303.17561). Targets have no gradient.
    """

    def __init__(
        self,
        *,
        scale: float = 1 / 0.07,
        max_scale: float = 100.0,
        weight: float = 0.2,
        temperature: float = 0.1,
        tile: int | None = None,
    ) -> None:
        super().__init__()
        self.max_scale, self.weight, self.temperature = max_scale, weight, temperature
        self.tile = tile
        # One element rather than none: ZeRO cannot partition a parameter without dimensions.
        self.log_scale = nn.Parameter(torch.tensor([math.log(scale)]))
        self.monitors: dict[str, Tensor] = {}

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        ids: Tensor | None = None,
        descriptions: Tensor | None = None,
        extra: Sequence[Extra] = (),
        prefixes: Prefixes | None = None,
    ) -> Tensor:
        """Return this rank's share of the loss, (), of (pairs, dim), (pairs, dim), ids (pairs,).

        `descriptions` u are (pairs, width), of any width; y unless given, whole at all widths.
        `extra` columns, of no relevance, are in the softmax of each row, or column.
        """
        scale = clamped_exp(self.log_scale, self.max_scale)
        self.monitors = {"temperature": 1 / scale.detach()}
        pairs = Pairs.of(x, y, ids, extra=extra, prefixes=prefixes)
        rows, columns = log_sum_exp(
            pairs.x, pairs.all_y, scale=scale, tile=self.tile, form=prefixes
        )
        rows = add_log_sum_exp(rows, pairs.extra_negatives("y"), scale, self.tile)
        columns = add_log_sum_exp(columns[pairs.own], pairs.extra_negatives("x"), scale, self.tile)
        hard = (1 - self.weight) * pairs.mean_positive_scores
        costs = (rows + columns) / 2 - scale * hard
        soft = self.weight / 2 * self._soft(pairs, y if descriptions is None else descriptions)
        return pairs.mean(pairs.weighted(costs).sum() - (scale * soft).sum())

    def _soft(self, pairs: Pairs, descriptions: Tensor) -> Tensor:
        """Return the scores that soft targets expect of rows and of columns, their sum, ()."""
        own = precise(descriptions.detach())
        inverse = torch.tensor([1 / self.temperature], dtype=torch.float64)
        targets = SoftTargets.of(own, gather(own, pairs.counts), inverse, self.tile)
        # Scores of all widths at once: the products of their vectors side by side.
        weights = pairs.prefixes.weights if pairs.prefixes else [1.0]
        widths = zip(weights, pairs.by_width(), strict=True)
        x, y = zip(*((weight * one.x, one.all_y) for weight, (one, _) in widths), strict=True)
        return targets.expected(torch.cat(x, 1), torch.cat(y, 1))
