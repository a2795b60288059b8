"""Multi-similarity loss: informative pairs are mined, and weighed by all of their similarities."""

from collections.abc import Sequence
from functools import partial
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from xmodal.objectives.config import ObjectiveConfig, TiledConfig
from xmodal.objectives.numerics import log1p_exp
from xmodal.objectives.pairs import Pairs
from xmodal.objectives.pairwise import hardest, log_sum_exp
from xmodal.objectives.pairwise.plain_engine import Logits
from xmodal.objectives.pairwise.prefixes import Prefixes
from xmodal.objectives.pairwise.transformed import Transformed


class MultiSimilarityConfig(TiledConfig, ObjectiveConfig):
    """Mined positives and negatives, weighed by their similarities (multi-similarity loss)."""

    kind: Literal["multi_similarity"] = "multi_similarity"
    alpha: PositiveFloat = Field(2.0, description="inverse temperature of positives")
    beta: PositiveFloat = Field(50.0, description="inverse temperature of negatives")
    threshold: float = Field(
        1.0, description="score λ that positives are to exceed and negatives to stay below"
    )
    epsilon: float = Field(
        0.1,
        description="a negative counts if it scores above the least positive less epsilon, a "
        "positive if below the greatest negative plus epsilon",
    )
    builds: ClassVar[str] = "MultiSimilarity"
    takes_widths: ClassVar[bool] = True


class MultiSimilarity(nn.Module):
    """Multi-similarity loss (Wang et al. 2019, arXiv 1904.06627, equation 15).

    With scores sᵢⱼ = xᵢ·yⱼ of unit vectors, the mean over all rows and columns of the global batch
    of (1/α) log(1 + Σₚ exp(−α (sₚ − λ))) + (1/β) log(1 + Σₙ exp(β (sₙ − λ))), over the positives p
    (the pairs of its id) and negatives n that are mined: sₙ > minₚ sₚ − ε and sₚ < maxₙ sₙ + ε
    (equations 11 and 12). Mining has no gradient.
    """

    def __init__(
        self,
        *,
        alpha: float = 2.0,
        beta: float = 50.0,
        threshold: float = 1.0,
        epsilon: float = 0.1,
        tile: int | None = None,
    ) -> None:
        super().__init__()
        self.alpha, self.beta, self.threshold, self.epsilon = alpha, beta, threshold, epsilon
        self.tile = tile
        self.monitors: dict[str, Tensor] = {}

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        ids: Tensor | None = None,
        prefixes: Prefixes | None = None,
    ) -> Tensor:
        """Return this rank's share of the loss, (), of (pairs, dim), (pairs, dim), ids (pairs,)."""
        pairs = Pairs.of(x, y, ids, prefixes=prefixes)
        sides = zip(self._costs(pairs, -self.alpha), self._costs(pairs, self.beta), strict=True)
        rows, columns = (of_positives + of_negatives for of_positives, of_negatives in sides)
        return pairs.mean(rows + columns[pairs.own]) / 2

    def _costs(self, pairs: Pairs, factor: float) -> tuple[Tensor, Tensor]:
        """Return (1/|f|) log(1 + Σ exp(f (s − λ))) of rows and columns, over the mined scores s.

        The factor f is −α for positives and β for negatives; of both, f s is greatest for the
        hardest, and what is mined lies above a limit.
        """
        of_negatives, size = factor > 0, abs(factor)
        x = pairs.x if of_negatives else -pairs.x
        opposite = hardest(
            -x.detach(),
            pairs.all_y.detach(),
            pairs.both_ids,
            tile=self.tile,
            form=Transformed(positives=of_negatives, prefixes=pairs.prefixes),
        )
        limits = [-size * (score + self.epsilon).view(len(score), -1) for score in opposite.scores]
        mined = Transformed(partial(_above, limits=limits), not of_negatives, pairs.prefixes)
        sums = log_sum_exp(
            x,
            pairs.all_y,
            pairs.both_ids,
            scale=torch.tensor([size], dtype=torch.float64),
            tile=self.tile,
            form=mined,
        )
        rows, columns = (log1p_exp(side - factor * self.threshold) / size for side in sums)
        return rows, columns


def _above(scores: Tensor, i: slice, j: slice, width: int, limits: Sequence[Tensor]) -> Logits:
    """Return the scores above a limit of their row, and those above one of their column.

    Limits are (rows, widths) and (columns, widths).
    """
    of_rows, of_columns = (side[:, width] for side in limits)
    rows = scores.masked_fill(scores <= of_rows[i, None], -torch.inf)
    return Logits(rows, scores.masked_fill(scores <= of_columns[j], -torch.inf))
