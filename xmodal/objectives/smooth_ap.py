"""Smooth AP: the average precision of every query over the whole batch, made smooth."""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from xmodal.components.config import Mark
from xmodal.distributed.collectives import gather
from xmodal.objectives.config import ObjectiveConfig, TiledConfig
from xmodal.objectives.extra import SIDES, Extra
from xmodal.objectives.pairs import Pairs
from xmodal.objectives.pairwise.positives import places_of_equal, scores_at
from xmodal.objectives.pairwise.prefixes import Prefixes
from xmodal.objectives.pairwise.soft_counts import soft_counts
from xmodal.objectives.pairwise.transformed import Transformed


class SmoothApConfig(TiledConfig, ObjectiveConfig):
    """The average precision of retrieval within the batch, made smooth."""

    kind: Literal["smooth_ap"] = "smooth_ap"
    temperature: PositiveFloat = Field(
        0.01,
        description="difference of scores within which a rank is smooth; only negatives within a "
        "few times of a positive score have a gradient",
    )
    most_positives: Annotated[PositiveInt | None, Mark.FREE] = Field(
        None,
        description="the most pairs of a batch that have one id, if that is known: no step then "
        "waits for a GPU to count them; a batch with more ends the run, and time and memory grow "
        "with it",
    )
    builds: ClassVar[str] = "SmoothAp"
    takes_extra: ClassVar[bool] = True
    takes_widths: ClassVar[bool] = True


class SmoothAp(nn.Module):
    """Smooth average precision (Brown et al. 2020, arXiv 2007.12163, equation 7).

    With scores sᵢⱼ = xᵢ·yⱼ and σ the sigmoid of temperature τ, L is the mean of 1 − AP over all
    rows and columns of the global batch as queries. Of a query with positives P (the pairs of its
    id) and negatives N,
    AP = 1/|P| Σ_{p∈P} (1 + Σ_{q∈P∖p} σ(s_q − s_p)) / (1 + Σ_{q∈P∖p} σ(s_q − s_p) + Σ_{n∈N} σ(s_n −
    s_p)). With one positive it is 1 − 1/rank: a surrogate of recall at small ranks.

    Memory is linear in the pairs and in the positives of all queries. Scores are taken as many
    sigmoids of as a query has positives.
    """

    def __init__(
        self,
        *,
        temperature: float = 0.01,
        most_positives: int | None = None,
        tile: int | None = None,
    ) -> None:
        super().__init__()
        self.temperature, self.most_positives, self.tile = temperature, most_positives, tile
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

        `extra` columns beside y are among the negatives of rows, those beside x of columns. The
        loss is NaN where an id has more than `most_positives` pairs.
        """
        pairs = Pairs.of(x, y, ids, extra=extra, prefixes=prefixes)
        places, largest = places_of_equal(pairs.ids, pairs.all_ids, self.most_positives)
        self.monitors = {"positives": largest}
        of_widths = [self._scores_of_positives(one, places) for one, _ in pairs.by_width()]
        limits = [torch.stack(side, 2) for side in zip(*of_widths, strict=True)]
        negatives, positives = (
            soft_counts(
                pairs.x,
                pairs.all_y,
                pairs.both_ids,
                (limits[0], gather(limits[1], pairs.counts)),
                scale=1 / self.temperature,
                form=Transformed(positives=which, prefixes=prefixes),
                tile=self.tile,
            )
            for which in (False, True)
        )
        costs = torch.zeros_like(limits[0][:, 0])
        for number, side in enumerate(SIDES):
            above, within = (one[number] for one in (negatives, positives))
            if side == "x":
                above, within = above[pairs.own], within[pairs.own]
            for more in pairs.extra_negatives(side):
                above = above + more.soft_counts(limits[number], 1 / self.temperature, self.tile)
            # A positive is half of itself, as σ(0) is ½.
            costs = costs + (above / (0.5 + within + above)).sum(1)
        costs = costs / (places >= 0).sum(1, keepdim=True)
        costs = costs.masked_fill(largest > places.shape[1], torch.nan)
        return pairs.mean(costs if prefixes else costs[:, 0]) / 2

    def failure_reason(self, values: Mapping[str, float]) -> str | None:
        """Return why training must stop, given the values of a step; None if it need not."""
        found, most = values.get("positives", 0), self.most_positives
        if most is None or found <= most:
            return None
        return (
            f"a batch has {found:.0f} pairs of one id, more than the {most} of method.objective."
            "most_positives; resume with a larger one, or null, which counts them"
        )

    def _scores_of_positives(self, pairs: Pairs, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scores over τ of own rows, and own columns, with positives, (pairs, n)."""
        x = pairs.x / self.temperature
        return (
            scores_at(x, pairs.all_y, places),
            scores_at(pairs.y, gather(x, pairs.counts), places),
        )
