"""Multi-similarity loss: informative pairs are mined, and weighed by all of their similarities."""

from collections.abc import Sequence
from functools import partial
from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from xmodal.distributed.collectives import gather
from xmodal.objectives.config import ObjectiveConfig, TiledConfig
from xmodal.objectives.extra import SIDES, Extra, Side
from xmodal.objectives.negatives import add_log_sum_exp
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
    takes_extra: ClassVar[bool] = True
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
        extra: Sequence[Extra] = (),
        prefixes: Prefixes | None = None,
    ) -> Tensor:
        """Return this rank's share of the loss, (), of (pairs, dim), (pairs, dim), ids (pairs,).

        `extra` columns beside y are negatives of rows, those beside x of columns.
        """
        pairs = Pairs.of(x, y, ids, extra=extra, prefixes=prefixes)
        positives, negatives = self._costs(pairs, -self.alpha), self._costs(pairs, self.beta)
        return pairs.mean(positives + negatives) / 2

    def _costs(self, pairs: Pairs, factor: float) -> Tensor:
        """Return (1/|f|) log(1 + Σ exp(f (s − λ))) over the mined scores s of rows, and of columns,
        together, (pairs,).

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
        scores = opposite.scores if of_negatives else self._with_extra(pairs, opposite.scores)
        widths = [score if pairs.prefixes else score[:, None] for score in scores]
        limits = [-size * (score + self.epsilon) for score in widths]
        scale = torch.tensor([size], dtype=torch.float64)
        mined = Transformed(partial(_above, limits=limits), not of_negatives, pairs.prefixes)
        rows, columns = log_sum_exp(
            x, pairs.all_y, pairs.both_ids, scale=scale, tile=self.tile, form=mined
        )
        sums = rows, columns[pairs.own]
        if of_negatives:
            sums = (
                self._add_extra(pairs, "y", sums[0], limits[0], scale),
                self._add_extra(pairs, "x", sums[1], limits[1][pairs.own], scale),
            )
        rows, columns = (log1p_exp(side - factor * self.threshold) / size for side in sums)
        return rows + columns

    def _with_extra(self, pairs: Pairs, scores: Sequence[Tensor]) -> list[Tensor]:
        """Return the greatest negative scores of rows and columns, extra ones included."""
        found = []
        for side, greatest in zip(SIDES, scores, strict=True):
            for more in pairs.extra_negatives(side):
                found_more = more.hardest(None, self.tile).detach()
                none = found_more.new_full((len(found_more), 1, *greatest.shape[1:]), -torch.inf)
                of_own = torch.cat([found_more, none], 1).amax(1)  # each may have none
                beside = of_own if side == "y" else gather(of_own, pairs.counts)
                greatest = torch.maximum(greatest, beside)
            found.append(greatest)
        return found

    def _add_extra(
        self, pairs: Pairs, side: Side, sums: Tensor, limits: Tensor, scale: Tensor
    ) -> Tensor:
        """Return the log-sum-exps of own items with those of extra negatives above their limits."""
        for more in pairs.extra_negatives(side):
            mined = more.above(limits, _above)
            sums = add_log_sum_exp(sums, [more], scale, self.tile, mined)
        return sums


def _above(scores: Tensor, i: slice, j: slice, width: int, limits: Sequence[Tensor]) -> Logits:
    """Return the scores above a limit of their row, and those above one of their column.

    Limits are (rows, widths) and (columns, widths).
    """
    of_rows, of_columns = (side[:, width] for side in limits)
    rows = scores.masked_fill(scores <= of_rows[i, None], -torch.inf)
    return Logits(rows, scores.masked_fill(scores <= of_columns[j], -torch.inf))
