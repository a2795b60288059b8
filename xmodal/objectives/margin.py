"""The contrastive objective with a margin on distances."""

from collections.abc import Sequence
from functools import partial
from typing import ClassVar, Literal

from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from xmodal.objectives.config import ObjectiveConfig, TiledConfig
from xmodal.objectives.extra import Extra
from xmodal.objectives.pairs import Pairs
from xmodal.objectives.pairwise import pair_sum
from xmodal.objectives.pairwise.cells import distance_hinges
from xmodal.objectives.pairwise.prefixes import Prefixes


class MarginConfig(TiledConfig, ObjectiveConfig):
    """Pairs of the same id close, all others a margin apart, in Euclidean distance."""

    kind: Literal["margin"] = "margin"
    margin: PositiveFloat = Field(1.0, description="distance from which negatives cost nothing")
    builds: ClassVar[str] = "Margin"
    takes_extra: ClassVar[bool] = True
    takes_widths: ClassVar[bool] = True


class Margin(nn.Module):
    """Contrastive loss on Euclidean distances d (Hadsell et al. 2006, across media: UNCSM).

    L = (1/2B) Σᵢⱼ (dᵢⱼ² if ids are equal, else [m − dᵢⱼ]₊²) over all B² pairs of the global batch:
    a sum over the others of each of B pairs, and its mean. An id is that of a pair, an image or a
    label; several pairs may have it.
    """

    def __init__(self, *, margin: float = 1.0, tile: int | None = None) -> None:
        super().__init__()
        self.margin, self.tile = margin, tile
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

        `extra` columns beside y are further negatives of rows, those beside x of columns.
        """
        pairs = Pairs.of(x, y, ids, extra=extra, prefixes=prefixes)
        function = partial(distance_hinges, margin=self.margin)
        negatives = pair_sum(
            function,
            pairs.x,
            pairs.all_y,
            pairs.both_ids,
            row_offset=pairs.square_lengths(pairs.x),
            column_offset=pairs.square_lengths(pairs.all_y),
            tile=self.tile,
            form=prefixes,
        )
        for more in (*pairs.extra_negatives("y"), *pairs.extra_negatives("x")):
            negatives = negatives + more.sum_of_distances(function, self.tile)
        positives = pairs.weighted([_positives(one).sum() for one, _ in pairs.by_width()])
        return pairs.mean(positives + negatives) / 2


def _positives(pairs: Pairs) -> Tensor:
    """Return each pair's part, (pairs,), of Σ dᵢⱼ² over all i, j of equal ids, in linear time.

    Of n pairs of an id with mean ȳ, Σⱼ |x − yⱼ|² = n |x − ȳ|² + Σⱼ |yⱼ − ȳ|². A sum over their n
    rows has the last term n times: each pair takes |y − ȳ|² as often.
    """
    means, sizes = pairs.means_of_ids()
    spread = (pairs.x - means).square() + (pairs.y - means).square()
    return sizes * spread.sum(1)
