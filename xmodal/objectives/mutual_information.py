"""Mutual information between two sides of an item, estimated from a critic's values.

The critic is a dot product, T = x·y, of what is given: an encode-and-dot critic is applied before.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from xmodal.distributed.collectives import gather, share_of_mean, sum_over_ranks, world_size
from xmodal.objectives.config import MatmulDtype, ObjectiveConfig, PairwiseConfig, check_choice
from xmodal.objectives.extra import SIDES, Extra, Side, check_sides
from xmodal.objectives.negatives import Negatives, add_log_sum_exp
from xmodal.objectives.numerics import log1p_exp, log_add_exp
from xmodal.objectives.pairs import Pairs
from xmodal.objectives.pairwise import (
    CellFunction,
    log_sum_exp,
    num_negatives,
    pair_sum,
    total_log_sum_exp,
)
from xmodal.objectives.pairwise.cells import exp_less_one, softplus
from xmodal.objectives.pairwise.prefixes import Prefixes, check_widths_kept
from xmodal.objectives.pairwise.tiles import precise

Estimate = Literal["jsd", "dv", "nwj", "info_nce"]


class MutualInformationConfig(PairwiseConfig, ObjectiveConfig):
    """The information that both sides of a pair share, as a critic estimates it (Deep InfoMax)."""

    kind: Literal["mutual_information"] = "mutual_information"
    estimator: Estimate = Field(
        "jsd", description="Jensen-Shannon; Donsker-Varadhan; Nguyen-Wainwright-Jordan; InfoNCE"
    )
    moving_average: float | None = Field(
        0.01,
        gt=0,
        lt=1,
        description="weight of a step in dv's moving average; null: gradients of each batch alone",
    )
    builds: ClassVar[str] = "MutualInformation"
    takes_extra: ClassVar[bool] = True
    takes_widths: ClassVar[bool] = True

    def build_for_widths(self, widths: Sequence[int]) -> Any:
        """Return an instance with a moving average of each width."""
        return self.build(widths=widths)

    @property
    def extra_sides(self) -> Sequence[str]:
        """Texts alone where each image is held against all texts."""
        return ("texts",) if self.estimator == "info_nce" else super().extra_sides


Critic = Callable[[Tensor, Tensor], Tensor]  # of (rows, …) and (rows, …): their values (rows,)


@dataclass(frozen=True)
class Scores:
    """Values of a critic: of positives as they are, of negatives as x·y for the pairwise engine.

    With `prefixes` there is one of each width: what is (positives,) without is (positives, widths).
    """

    positives: Tensor  # (positives,) of this rank
    counts: list[int]  # positives of each rank
    x: Tensor  # (rows, dim) of this rank
    y: Tensor  # (columns, dim) of all ranks
    ids: tuple[Tensor, Tensor]  # (rows,), (columns,): equal ones are no negatives
    num_negatives: Tensor  # () int64, of all ranks
    # (positives,) log Σ exp over the negatives of each positive, and how many they are
    negatives_of_each: Callable[[], tuple[Tensor, Tensor]]
    tile: int | None
    extra: Sequence[Negatives] = ()  # beside those negatives, and counted among them
    prefixes: Prefixes | None = None

    @property
    def of_pair(self) -> tuple[int, ...]:
        """The shape of a pair's values: () of one, else one a width."""
        return self.prefixes.of_pair if self.prefixes else ()

    def weighted(self, values: Tensor) -> Tensor:
        """Return the weighted sum over widths of values (…, widths); without, the values."""
        return self.prefixes.weighted(values) if self.prefixes else values

    def positive_mean(self, values: Tensor) -> Tensor:
        """Return the share of the mean over all ranks' positives."""
        return share_of_mean(self.weighted(values), self.counts)

    def negative_mean(self, function: CellFunction) -> Tensor:
        """Return the share of the mean over all negatives, 0 where there are none."""
        form = self.prefixes
        total = pair_sum(function, self.x, self.y, self.ids, tile=self.tile, form=form)
        for more in self.extra:
            zeros = total.new_zeros(len(more.items), *self.of_pair)
            total = total + more.sum(function, zeros, tile=self.tile)
        return total * (world_size() / self._at_least_one).to(total)

    def negative_log_mean_exp(self) -> Tensor:
        """Return log E[eᵀ] over all negatives, () or (widths,), 0 where there are none."""
        total = self._total_of_widths() if self.prefixes else self._total()
        return total.masked_fill(self.num_negatives == 0, 0) - self._at_least_one.log().to(total)

    def _total(self) -> Tensor:
        total = total_log_sum_exp(self.x, self.y, self.ids, tile=self.tile)
        for more in self.extra:
            total = log_add_exp(total, more.total_log_sum_exp(self.tile))
        return total

    def _total_of_widths(self) -> Tensor:
        rows, _ = log_sum_exp(self.x, self.y, self.ids, tile=self.tile, form=self.prefixes)
        sums = torch.cat([rows, *(more.log_sum_exp(None, self.tile) for more in self.extra)])
        least = torch.finfo(sums.dtype).min  # −∞ would have no gradient
        return gather(sums.clamp(min=least).logsumexp(0, keepdim=True)).logsumexp(0)

    @property
    def _at_least_one(self) -> Tensor:
        """The number of negatives, () float64, 1 where there are none."""
        return self.num_negatives.clamp(min=1).double()


class Estimator(nn.Module):
    """Minus an estimate of the mutual information I, from the joint P and the product Q.

    With positives drawn from P and negatives from Q, of which no id is that of the other side:

    - jsd (Hjelm et al. 2019, equation 4): I = E_P[−sp(−T)] − E_Q[sp(T)] + 2 log 2, sp(z) =
      log(1 + eᶻ). At its best it is twice the Jensen-Shannon divergence of P and Q, no information
      in nats; the constant makes it 0 where nothing is shared.
    - dv (Donsker and Varadhan 1983; MINE: Belghazi et al. 2018): I = E_P[T] − log E_Q[eᵀ]. With
      `moving_average`, the value stays, but its gradient divides by an average over steps of
      E_Q[eᵀ] (MINE, equation 12): that of one batch alone is biased.
    - nwj (Nguyen, Wainwright and Jordan 2010): I = E_P[T] − E_Q[eᵀ] / e.
    - info_nce (van den Oord et al. 2018): I = E_P[log(eᵀ / mean eᵀ)], the mean over a positive and
      its negatives.
    """

    log_average: Tensor

    def __init__(
        self,
        *,
        estimator: Estimate = "jsd",
        moving_average: float | None = 0.01,
        matmul_dtype: MatmulDtype = "float32",
        tile: int | None = None,
        widths: Sequence[int] = (),
    ) -> None:
        super().__init__()
        check_choice("estimator", estimator, Estimate)
        check_choice("matmul_dtype", matmul_dtype, MatmulDtype)
        self.estimator, self.moving_average = estimator, moving_average
        self.matmul_dtype, self.tile = matmul_dtype, tile
        self.monitors: dict[str, Tensor] = {}
        self.widths = widths
        # The logarithm of dv's moving average, one of each width; −∞ while there is none.
        self.register_buffer(
            "log_average", torch.full((len(widths),) if widths else (), -torch.inf)
        )

    def cut(self, width: int) -> None:
        """Leave the average of the narrowest width that has so many numbers."""
        if self.widths:
            self.log_average = self.log_average[bisect_left(self.widths, width)].clone()
            self.widths = ()

    def loss(self, scores: Scores) -> Tensor:
        """Return this rank's share of minus the estimate, ()."""
        estimate = {"jsd": _jsd, "dv": self._dv, "nwj": _nwj, "info_nce": _info_nce}
        return -estimate[self.estimator](scores)

    def _dv(self, scores: Scores) -> Tensor:
        positives = scores.positive_mean(scores.positives)
        log_mean, has_negatives = scores.negative_log_mean_exp(), scores.num_negatives > 0
        if self.training and self.moving_average is not None:
            log_mean = self._corrected(log_mean, has_negatives, self.moving_average)
        return positives - scores.weighted(log_mean.masked_fill(~has_negatives, 0))

    def _corrected(self, log_mean: Tensor, has_negatives: Tensor, rate: float) -> Tensor:
        """Return log E[eᵀ] as it is, with the gradient of E[eᵀ] over its moving average."""
        now = log_mean.detach()
        average = torch.logaddexp(self.log_average + math.log1p(-rate), now + math.log(rate))
        average = torch.where(self.log_average.isneginf(), now, average)
        self.log_average.copy_(torch.where(has_negatives, average, self.log_average))
        return now + (now - self.log_average).exp() * (log_mean - now)


def _jsd(scores: Scores) -> Tensor:
    constant = scores.weighted(scores.positives.new_full(scores.of_pair, 2 * math.log(2)))
    positives = scores.positive_mean(log1p_exp(-scores.positives))
    return constant - positives - scores.negative_mean(softplus)


def _nwj(scores: Scores) -> Tensor:
    return scores.positive_mean(scores.positives) - scores.negative_mean(exp_less_one)


def _info_nce(scores: Scores) -> Tensor:
    negatives, counts = scores.negatives_of_each()
    costs = log1p_exp(negatives - scores.positives)
    return scores.positive_mean(counts.to(negatives).log1p() - costs)


class MutualInformation(Estimator):
    """Between two vectors of an item, or its global vector and each position of a feature map.

    Positives are the pairs and, of maps, each position with its own item's vector (Hjelm et al.
    2019: global and local); negatives all pairs of the batch whose items differ. InfoNCE holds a
    pair's x against all y. Of maps, it holds each position against all positions of other items,
    for the same vector.
    """

    def forward(
        self,
        x: Tensor,
        y: Tensor,
        ids: Tensor | None = None,
        extra: Sequence[Extra] = (),
        prefixes: Prefixes | None = None,
    ) -> Tensor:
        """Return this rank's share of the loss, (), of y (batch, dim) and ids (batch,) int64.

        x is (batch, dim), or maps as (batch, positions, dim) or (batch, dim, height, width). Of
        vectors, `extra` columns beside y are further negatives of each x, those beside x of each y,
        but for info_nce, which is by x alone.
        """
        sides: Sequence[Side] = ("y",) if self.estimator == "info_nce" else SIDES
        is_map = x.ndim > 2
        if is_map and prefixes:
            raise ValueError("mutual_information of maps has no scores of several widths")
        if self.estimator == "dv":
            check_widths_kept("widths", len(self.widths) or 1, prefixes)
        name = f"mutual_information ({self.estimator}){' of maps' if is_map else ''}"
        check_sides(extra, () if is_map else sides, name)
        local = x.flatten(2).transpose(1, 2) if x.ndim == 4 else x
        pairs = Pairs.of(local, y, ids, self.matmul_dtype, extra, prefixes, several=x.ndim > 2)
        scores = _of_pairs if x.ndim == 2 else _of_positions
        return self.loss(scores(pairs, self.tile))


def _of_pairs(pairs: Pairs, tile: int | None) -> Scores:
    extra = [more for side in SIDES for more in pairs.extra_negatives(side)]
    counts = [one.counts() for one in extra]
    num_all = num_negatives(pairs.all_ids, pairs.all_ids).sum()
    if counts:
        num_all = num_all + sum_over_ranks(torch.stack(counts).sum())

    def negatives_of_each() -> tuple[Tensor, Tensor]:
        by_row, _ = log_sum_exp(
            pairs.rows, pairs.all_y, pairs.both_ids, tile=tile, form=pairs.prefixes
        )
        of_each = torch.stack([num_negatives(*pairs.both_ids), *counts]).sum(0)
        of_each = of_each[:, None] if pairs.prefixes else of_each
        return add_log_sum_exp(by_row, extra, None, tile), of_each

    return Scores(
        positives=pairs.positive_scores,
        counts=pairs.counts,
        x=pairs.rows,
        y=pairs.all_y,
        ids=pairs.both_ids,
        num_negatives=num_all,
        negatives_of_each=negatives_of_each,
        tile=tile,
        extra=extra,
        prefixes=pairs.prefixes,
    )


def _of_positions(items: Pairs, tile: int | None) -> Scores:
    positions = items.x.shape[1]
    rows, row_ids = items.rows.flatten(0, 1), items.ids.repeat_interleave(positions)

    def negatives_of_each() -> tuple[Tensor, Tensor]:
        _, by_column = log_sum_exp(rows, items.all_y, (row_ids, items.all_ids), tile=tile)
        counts = positions * num_negatives(*items.both_ids)
        own = by_column[items.own]
        return own.repeat_interleave(positions), counts.repeat_interleave(positions)

    return Scores(
        positives=(items.x * items.y[:, None]).sum(2).flatten(),
        counts=[positions * count for count in items.counts],
        x=rows,
        y=items.all_y,
        ids=(row_ids, items.all_ids),
        num_negatives=positions * num_negatives(items.all_ids, items.all_ids).sum(),
        negatives_of_each=negatives_of_each,
        tile=tile,
    )


class SampledMutualInformation(Estimator):
    """Between two vectors of an item, by a critic that looks at both at once.

    Such a critic takes a pass a pair, so there is one negative an item: its x with the y of the
    next item of the global batch that has another id, after the last the first.
    """

    def forward(self, x: Tensor, y: Tensor, ids: Tensor, critic: Critic) -> Tensor:
        """Return this rank's share of the loss, (), of (batch, …), (batch, …), ids (batch,)."""
        pairs = Pairs.of(x, y, ids, several=True)
        partners = next_of_another_id(pairs.all_ids)
        others = pairs.all_y[partners[pairs.own].clamp(min=0)]
        both = critic(torch.cat([x, x]), torch.cat([y, others]))
        positives, negatives = precise(both).chunk(2)
        # To the engine a negative is a row with one column, whose id a row without partner has.
        alone = (partners[pairs.own] < 0).long()
        column = negatives.new_ones(1, 1)
        row_ids = alone, alone.new_ones(1)

        def negatives_of_each() -> tuple[Tensor, Tensor]:
            by_row, _ = log_sum_exp(negatives[:, None], column, row_ids, tile=self.tile)
            return by_row, 1 - alone

        scores = Scores(
            positives=positives,
            counts=pairs.counts,
            x=negatives[:, None],
            y=column,
            ids=row_ids,
            num_negatives=(partners >= 0).sum(),
            negatives_of_each=negatives_of_each,
            tile=self.tile,
        )
        return self.loss(scores)


def next_of_another_id(ids: Tensor) -> Tensor:
    """Return for each of ids (batch,) the place of the next that differs, (batch,) int64.

    After the last comes the first. Where all are equal it is −1.
    """
    places = torch.arange(len(ids), device=ids.device)
    none = len(ids)
    changes = torch.where(ids != ids.roll(1), places, none)
    from_here = changes.flip(0).cummin(0).values.flip(0)  # the first change here or later
    later = from_here.roll(-1)
    following = torch.where(later == none, from_here[:1], later)
    return following.masked_fill(following == none, -1)
