"""Triplets of a pair and its negatives among all of the batch."""

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveFloat
from torch import Tensor

from xmodal.devices import is_on_host
from xmodal.distributed.collectives import gather, sum_over_ranks
from xmodal.objectives.config import MatmulDtype, ObjectiveConfig, PairwiseConfig, check_choice
from xmodal.objectives.extra import Extra, Side
from xmodal.objectives.pairs import Pairs
from xmodal.objectives.pairwise import hardest, pair_scores, pair_sum
from xmodal.objectives.pairwise.cells import hinges
from xmodal.objectives.pairwise.prefixes import Prefixes
from xmodal.objectives.pairwise.tiles import precise
from xmodal.objectives.warmup import Scheduled, linear_warmup

Negatives = Literal["sum", "hardest", "semi_hard"]


class TripletConfig(PairwiseConfig, ObjectiveConfig):
    """Each pair a margin closer than negatives of its image and of its text (VSE++)."""

    kind: Literal["triplet"] = "triplet"
    negatives: Negatives = Field(
        "semi_hard",
        description="all; the hardest, with which training often collapses; the hardest that "
        "score less than the pair",
    )
    margin: PositiveFloat = Field(
        0.2, description="margin between the positive score and negative scores"
    )
    warmup: float = Field(
        0.1,
        ge=0,
        le=1,
        description="share of a stage that shifts from all negatives to `negatives`",
    )
    builds: ClassVar[str] = "Triplet"

    @property
    def skips_alike(self) -> bool:
        """It does."""
        return True

    takes_extra: ClassVar[bool] = True
    takes_widths: ClassVar[bool] = True


ALIKE = 0.05  # of the margin: scores within this of each other are alike to a triplet


class Triplet(Scheduled):
    """Triplet loss with hard negatives (VSE++, Faghri et al. 2018, arXiv 1707.05612).

    With scores sᵢⱼ = xᵢ·yⱼ, L = (1/B) Σᵢ [m + sᵢⱼ − sᵢᵢ]₊ + (1/B) Σⱼ [m + sᵢⱼ − sⱼⱼ]₊, where the
    negative is

    - `hardest`: that of the greatest score in its row i or column j of the global batch;
    - `semi_hard`: that of the greatest score below the positive score, and the hardest where
      there is none (Schroff et al. 2015, arXiv 1503.03832);
    - `sum`: every one, their hinges added up.

    With K embeddings an item, sᵢⱼ is the greatest of K × K products: the multiple-instance loss of
    PVSE (Song and Soleymani 2019, arXiv 1906.04402).

    The mean over the batch makes learning rates independent of its size; the paper takes the sum.
    Other pairs of the same id are no negatives. Over the first `warmup` of a stage, the loss goes
    linearly from `sum` to the kind above.

    Hard negatives can drive all embeddings into one point, where every score is the same and the
    loss stays at 2m. The monitor `collapse` is the share of triplets, of each pair and the next in
    the batch, whose two scores are alike: 1 in that point, and near 0 far from it.
    """

    def __init__(
        self,
        *,
        negatives: Negatives = "semi_hard",
        margin: float = 0.2,
        warmup: float = 0.1,
        matmul_dtype: MatmulDtype = "float32",
        tile: int | None = None,
    ) -> None:
        super().__init__()
        check_choice("negatives", negatives, Negatives)
        check_choice("matmul_dtype", matmul_dtype, MatmulDtype)
        self.negatives, self.margin, self.warmup = negatives, margin, warmup
        self.matmul_dtype, self.tile = matmul_dtype, tile
        self.monitors: dict[str, Tensor] = {}

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        ids: Tensor | None = None,
        extra: Sequence[Extra] = (),
        prefixes: Prefixes | None = None,
    ) -> Tensor:
        """Return this rank's share of the loss, (), of x and y, with ids (pairs,).

        x and y are (pairs, dim), or (pairs, K, dim). `extra` columns beside y are among the
        negatives of rows, those beside x among the negatives of columns.
        """
        pairs = Pairs.of(
            x, y, ids, self.matmul_dtype, extra, prefixes, several=True, skips_alike=True
        )
        own = pairs.positive_scores
        all_own = gather(own, pairs.counts)
        *_, (whole, (scores,)) = pairs.by_width(all_own)
        self.monitors = {"collapse": _alike(whole, scores, ALIKE * self.margin)}
        mined = self._share_of_mined()
        cost = x.new_zeros(())
        if mined < 1:
            cost = cost + (1 - mined) * self._all(pairs, own, all_own)
        if mined > 0:
            cost = cost + mined * self._mined(pairs, own, all_own)
        return pairs.mean(cost)

    def _share_of_mined(self) -> float:
        if self.negatives == "sum":
            return 0.0
        return linear_warmup(self.progress, self.warmup)

    def _all(self, pairs: Pairs, own: Tensor, all_own: Tensor) -> Tensor:
        """Return the sum of hinges, (), of this rank's rows with all columns."""
        total = pair_sum(
            hinges,
            pairs.rows,
            pairs.all_y,
            pairs.no_negatives,
            row_offset=self.margin - own,
            column_offset=self.margin - all_own,
            tile=self.tile,
            form=pairs.prefixes,
        )
        for more in (*pairs.extra_negatives("y"), *pairs.extra_negatives("x")):
            # They have no pair of their own, and so no hinge.
            total = total + more.sum(
                hinges, self.margin - own, column_offset=-torch.inf, tile=self.tile
            )
        return total

    def _mined(self, pairs: Pairs, own: Tensor, all_own: Tensor) -> Tensor:
        """Return the sum of hinges, (), of this rank's rows and of columns mined from its rows."""
        # No search finds NaN: what is not finite is to show in the loss all the same.
        not_finite = 0 * own.sum()
        if pairs.extra:
            return (
                self._hinge_of_any(pairs, "y", own)
                + self._hinge_of_any(pairs, "x", own)
                + not_finite
            )
        semi_hard = self.negatives == "semi_hard"
        found = hardest(
            pairs.rows.detach(),
            pairs.all_y.detach(),
            pairs.no_negatives,
            first_row=pairs.first,
            below=(own.detach(), all_own.detach()) if semi_hard else None,
            tile=self.tile,
            form=pairs.prefixes,
        )
        of_widths = pairs.by_width(found.rows, found.columns, own, all_own)
        sums = [self._hinges_of(one, *vectors) for one, vectors in of_widths]
        return pairs.weighted(sums) + not_finite

    def _hinges_of(
        self, pairs: Pairs, of_columns: Tensor, of_rows: Tensor, own: Tensor, all_own: Tensor
    ) -> Tensor:
        """Return the sum of hinges, (), with the row found for each column, and the reverse."""
        rows, columns = (torch.arange(len(side), device=own.device) for side in (own, all_own))
        by_row = self._hinge(pairs, rows, of_rows, own)
        # A column's negative lies on one rank, which has the embeddings of both.
        by_column = self._hinge(pairs, of_columns - pairs.first, columns, all_own)
        return by_row + by_column

    def _hinge(self, pairs: Pairs, rows: Tensor, columns: Tensor, own: Tensor) -> Tensor:
        """Return the sum of hinges, (), of rows with columns, as far as both exist here."""
        counted = (rows >= 0) & (rows < len(pairs.x)) & (columns >= 0)
        if is_on_host(counted):
            rows, columns, own, counted = (one[counted] for one in (rows, columns, own, counted))
        x = pairs.x.index_select(0, rows.clamp(0, len(pairs.x) - 1))
        y = pairs.all_y.index_select(0, columns.clamp(min=0))
        hinges = F.relu(self.margin + pair_scores(x, precise(y)) - own)
        return torch.where(counted, hinges, 0).sum()

    def _hinge_of_any(self, pairs: Pairs, side: Side, own: Tensor) -> Tensor:
        """Return the sum of hinges, (), of own items with the hardest negatives on a side."""
        below = own.detach() if self.negatives == "semi_hard" else None
        found = [negatives.hardest(below, self.tile) for negatives in pairs.negatives(side)]
        scores = torch.cat(found, 1)
        if below is not None:
            near = (scores < below[:, None]) & ~scores.isneginf()
            scores = scores.masked_fill(near.any(1, keepdim=True) & ~near, -torch.inf)
        return pairs.weighted(F.relu(self.margin + scores.max(1).values - own)).sum()


@torch.no_grad()
def _alike(pairs: Pairs, all_own: Tensor, tolerance: float) -> Tensor:
    """Return the share, (), of triplets whose negative scores within `tolerance` of the positive.

    The negatives are, for each pair of all ranks, the score of its row in the next pair's column:
    one of the row and one of that column. All scores would cost a pass of their own.
    """
    following = torch.arange(len(pairs.x), device=pairs.x.device).add(pairs.first + 1)
    following %= len(pairs.all_y)
    scores = pair_scores(pairs.x, precise(pairs.all_y[following]))
    negative = pairs.ids != pairs.all_ids[following]
    gaps = torch.stack([scores - all_own[pairs.own], scores - all_own[following]])
    alike = ((gaps.abs() <= tolerance) & negative).sum()
    count, total = sum_over_ranks(torch.stack([alike, 2 * negative.sum()]))
    return count / total.clamp(min=1)
