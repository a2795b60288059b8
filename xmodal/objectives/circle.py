"""Circle loss: every score weighed by how far it is from its optimum."""

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from xmodal.objectives.config import ObjectiveConfig, TiledConfig
from xmodal.objectives.extra import SIDES, Extra
from xmodal.objectives.negatives import add_log_sum_exp
from xmodal.objectives.numerics import log1p_exp
from xmodal.objectives.pairs import Pairs
from xmodal.objectives.pairwise import log_sum_exp
from xmodal.objectives.pairwise.plain_engine import Logits
from xmodal.objectives.pairwise.prefixes import Prefixes
from xmodal.objectives.pairwise.transformed import Transformed


class CircleConfig(TiledConfig, ObjectiveConfig):
    """Positives and negatives weighed by how far they are from their optimum (circle loss)."""

    kind: Literal["circle"] = "circle"
    scale: PositiveFloat = Field(80.0, description="inverse temperature γ")
    margin: float = Field(
        0.4,
        gt=0,
        lt=1,
        description="relaxation m: positive scores are to exceed 1 − m, negative ones to stay "
        "below m",
    )
    builds: ClassVar[str] = "Circle"
    takes_extra: ClassVar[bool] = True
    takes_widths: ClassVar[bool] = True


class Circle(nn.Module):
    """Circle loss (Sun et al. 2020, arXiv 2002.10857, equation 6).

    With scores sᵢⱼ = xᵢ·yⱼ of unit vectors, the mean over all rows and columns of the global batch
    of log(1 + Σₙ exp(γ αₙ (sₙ − m)) Σₚ exp(−γ αₚ (sₚ − 1 + m))), n of its negatives and p of its
    positives, the pairs of its id. αₙ = [sₙ + m]₊ and αₚ = [1 + m − sₚ]₊ are weights, which have
    no gradient.
    """

    def __init__(
        self, *, scale: float = 80.0, margin: float = 0.4, tile: int | None = None
    ) -> None:
        super().__init__()
        self.scale, self.margin, self.tile = scale, margin, tile
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
        of_negatives, of_positives = (
            partial(function, scale=self.scale, margin=self.margin)
            for function in (_of_negatives, _of_positives)
        )
        forms = (
            Transformed(of_negatives, prefixes=prefixes),
            Transformed(of_positives, positives=True, prefixes=prefixes),
        )
        (rows, columns), positives = (
            log_sum_exp(pairs.x, pairs.all_y, pairs.both_ids, tile=self.tile, form=form)
            for form in forms
        )
        rows, columns = (
            add_log_sum_exp(sums, pairs.extra_negatives(side), None, self.tile, forms[0])
            for sums, side in zip((rows, columns[pairs.own]), SIDES, strict=True)
        )
        costs = log1p_exp(rows + positives[0]) + log1p_exp(columns + positives[1][pairs.own])
        return pairs.mean(costs) / 2


def _of_negatives(scores: Tensor, *_: Any, scale: float, margin: float) -> Logits:
    """γ [s + m]₊ (s − m)."""
    slopes = (scores + margin).clamp_(min=0).mul_(scale)
    logits = scores.sub_(margin).mul_(slopes)
    return Logits(logits, logits, slopes)


def _of_positives(scores: Tensor, *_: Any, scale: float, margin: float) -> Logits:
    """−γ [1 + m − s]₊ (s − 1 + m)."""
    slopes = (1 + margin - scores).clamp_(min=0).mul_(-scale)
    logits = scores.sub_(1 - margin).mul_(slopes)
    return Logits(logits, logits, slopes)
