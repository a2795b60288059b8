"""Negatives of this rank's items beside those of their pairs, and what losses need of them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from xmodal.objectives.numerics import log_add_exp
from xmodal.objectives.pairwise import (
    hardest,
    log_sum_exp,
    num_negatives,
    pair_scores,
    pair_sum,
    total_log_sum_exp,
)
from xmodal.objectives.pairwise.cells import CellFunction
from xmodal.objectives.pairwise.engine import Form
from xmodal.objectives.pairwise.plain_engine import Logits
from xmodal.objectives.pairwise.prefixes import Prefixes, square_lengths
from xmodal.objectives.pairwise.soft_counts import soft_counts
from xmodal.objectives.pairwise.tiles import NO_ROWS, NoNegatives, precise
from xmodal.objectives.pairwise.transformed import Transformed

LimitedFunction = Callable[..., Logits]  # a `LogitFunction` with `limits` of rows and of columns


class Negatives:
    """Columns as negatives of all of this rank's items, each of which is a row to the engine.

    With `prefixes` an item has a value of each width: what is (items,) without is (items, widths).
    """

    def __init__(
        self, items: Tensor, columns: Tensor, ids: NoNegatives, prefixes: Prefixes | None = None
    ) -> None:
        self.items, self.columns, self.ids, self.prefixes = items, columns, ids, prefixes
        self.rows = items.to(columns.dtype)
        self.of_pair = prefixes.of_pair if prefixes else ()

    def log_sum_exp(
        self, scale: Tensor | None, tile: int | None, form: Form | None = None
    ) -> Tensor:
        """Return log Σ exp(s x·y) of every item, (items,); −∞, or the least number, without any."""
        form = form or self.prefixes
        sums, _ = log_sum_exp(self.rows, self.columns, self.ids, scale=scale, tile=tile, form=form)
        return sums

    def total_log_sum_exp(self, tile: int | None) -> Tensor:
        """Return log Σᵢⱼ exp(x·y), (), over the items of all ranks, and the same on each."""
        return total_log_sum_exp(self.rows, self.columns, self.ids, tile=tile)

    def counts(self) -> Tensor:
        """Return the number of negatives of every item by the ids, (items,) int64."""
        ids, column_ids, *_ = self.ids
        return num_negatives(ids, column_ids) - (column_ids == NO_ROWS).sum()

    def sum(
        self,
        function: CellFunction,
        row_offset: Tensor,
        *,
        scale: Tensor | None = None,
        column_offset: float = 0.0,
        tile: int | None,
    ) -> Tensor:
        """Return Σᵢⱼ f(s xᵢ·yⱼ, aᵢ, b), (), of offsets a (items,) and a column offset b."""
        return pair_sum(
            function,
            self.rows,
            self.columns,
            self.ids,
            scale=scale,
            row_offset=row_offset,
            column_offset=self._of_columns(column_offset),
            tile=tile,
            form=self.prefixes,
        )

    def sum_of_distances(self, function: CellFunction, tile: int | None) -> Tensor:
        """Return Σᵢⱼ f of Euclidean distances, (), a function that takes squares of lengths."""
        of_rows, of_columns = (
            square_lengths(side, self.prefixes) for side in (self.items, self.columns)
        )
        return pair_sum(
            function,
            self.rows,
            self.columns,
            self.ids,
            row_offset=of_rows,
            column_offset=of_columns,
            tile=tile,
            form=self.prefixes,
        )

    def soft_counts(self, limits: Tensor, scale: float, tile: int | None) -> Tensor:
        """Return Σⱼ σ(s xᵢ·yⱼ − a) of every item, for each of its limits a, (items, n, 1)."""
        counts, _ = soft_counts(
            self.rows,
            self.columns,
            self.ids,
            (limits, self._of_columns(torch.inf, *limits.shape[1:])),
            scale=scale,
            form=Transformed(prefixes=self.prefixes),
            tile=tile,
        )
        return counts

    def hardest(self, below: Tensor | None, tile: int | None) -> Tensor:
        """Return the greatest score of every item, (items, 1), −∞ where it has no negative.

        Where an item has scores below its limit `below` (items,), it is the greatest of those.
        """
        if not len(self.columns):
            shape = len(self.items), 1, *self.of_pair
            return precise(self.items[:0]).new_full(shape, -torch.inf)
        limits = None if below is None else (below, self._of_columns(0.0))
        rows, columns = self.rows.detach(), self.columns.detach()
        found = hardest(rows, columns, self.ids, below=limits, tile=tile, form=self.prefixes)
        return self._scores_at(found.columns)[:, None]

    def above(self, limits: Tensor, function: LimitedFunction) -> Transformed:
        """Return the form of a function of scores and limits, given those of items (items, n)."""
        both = limits, self._of_columns(torch.inf, limits.shape[1])
        return Transformed(partial(function, limits=both), prefixes=self.prefixes)

    def _scores_at(self, places: Tensor) -> Tensor:
        """Return the scores, (items,), of items with a column each; −∞ where the place is −1."""
        if self.prefixes is None:
            scores = pair_scores(self.items, self._columns_at(places))
        else:
            of_widths = zip(self.prefixes.widths, places.unbind(1), strict=True)
            scores = torch.stack([self._cosines(*one) for one in of_widths], 1)
        return scores.masked_fill(places < 0, -torch.inf)

    def _cosines(self, width: int, places: Tensor) -> Tensor:
        items, columns = self.items[:, :width], self._columns_at(places)[:, :width]
        return Prefixes.of([width], None).pair_scores(items, columns)[:, 0]

    def _columns_at(self, places: Tensor) -> Tensor:
        return precise(self.columns.index_select(0, places.clamp(min=0)))

    def _of_columns(self, value: float, *shape: int) -> Tensor:
        shape = shape or self.of_pair
        return precise(self.items[:0]).new_full((len(self.columns), *shape), value)


class OwnNegatives(Negatives):
    """Columns of which each row i has k of its own, i·k to (i + 1)·k − 1.

    The engine computes with the scores, not with the items: each is a row of one number, and the
    only column is 1. Widths are computed one after the other.
    """

    def __init__(
        self,
        items: Tensor,
        columns: Tensor,
        ids: tuple[Tensor, Tensor],
        prefixes: Prefixes | None = None,
    ) -> None:
        count = len(columns) // len(items) if len(items) else 1
        if len(columns) != count * len(items):
            raise ValueError(
                f"{len(columns)} extra columns are not equally many of each of {len(items)} rows"
            )
        super().__init__(items, columns.to(items.dtype), ids, prefixes)
        self.count = count
        own_ids, column_ids = self._of_rows(ids[0]), ids[1]
        self.skipped = (own_ids == column_ids) | (column_ids == NO_ROWS)
        both = self._of_rows(items), self.columns
        self.scores = prefixes.pair_scores(*both) if prefixes else pair_scores(*both)[:, None]
        # A row that is to be skipped has the id of the column.
        one, of_one = self.scores.new_ones(1, 1), (self.skipped.long(), ids[0].new_ones(1))
        self.widths = [Negatives(score, one, of_one) for score in self.scores.split(1, 1)]

    def log_sum_exp(
        self, scale: Tensor | None, tile: int | None, form: Form | None = None
    ) -> Tensor:
        """Return log Σ exp(s x·y) of every item, (items,); −∞, or the least number, without any."""
        forms = [form.of_width(n) if isinstance(form, Transformed) else None for n in self._all]
        sums = [
            one.log_sum_exp(scale, tile, form) for one, form in zip(self.widths, forms, strict=True)
        ]
        rows = self._by_item(self._together(sums))
        if self.count == 1:
            return rows[:, 0]
        # −∞ would have no gradient.
        return rows.clamp(min=torch.finfo(rows.dtype).min).logsumexp(1)

    def total_log_sum_exp(self, tile: int | None) -> Tensor:
        """Return log Σᵢⱼ exp(x·y), (), over the items of all ranks, and the same on each."""
        return self._together([one.total_log_sum_exp(tile) for one in self.widths])

    def counts(self) -> Tensor:
        """Return the number of negatives of every item by the ids, (items,) int64."""
        return self._by_item(~self.skipped).sum(1)

    def sum(
        self,
        function: CellFunction,
        row_offset: Tensor,
        *,
        scale: Tensor | None = None,
        column_offset: float = 0.0,
        tile: int | None,
    ) -> Tensor:
        """Return Σᵢⱼ f(s xᵢ·yⱼ, aᵢ, b), (), of offsets a (items,) and a column offset b."""
        given = {"scale": scale, "column_offset": column_offset, "tile": tile}
        return self._weighted(function, self._of_rows(row_offset), **given)

    def sum_of_distances(self, function: CellFunction, tile: int | None) -> Tensor:
        """Return Σᵢⱼ f of Euclidean distances, (), a function that takes squares of lengths."""
        of_items, of_columns = (
            square_lengths(side, self.prefixes) for side in (self.items, self.columns)
        )
        return self._weighted(function, self._of_rows(of_items) + of_columns, tile=tile)

    def soft_counts(self, limits: Tensor, scale: float, tile: int | None) -> Tensor:
        """Return Σⱼ σ(s xᵢ·yⱼ − a) of every item, for each of its limits a, (items, n, 1)."""
        of_widths = zip(self.widths, self._of_rows(limits).split(1, 2), strict=True)
        counts = torch.cat([one.soft_counts(some, scale, tile) for one, some in of_widths], 2)
        return self._by_item(counts).sum(1)

    def hardest(self, below: Tensor | None, tile: int | None) -> Tensor:
        """Return all scores of every item, (items, k), −∞ where one is no negative."""
        del below, tile
        scores = self.scores.masked_fill(self.skipped[:, None], -torch.inf)
        return self._by_item(scores if self.prefixes else scores[:, 0])

    def above(self, limits: Tensor, function: LimitedFunction) -> Transformed:
        """Return the form of a function of scores and limits, given those of items (items, n)."""
        both = self._of_rows(limits), limits.new_full((1, limits.shape[1]), torch.inf)
        return Transformed(partial(function, limits=both), prefixes=self.prefixes)

    @property
    def _all(self) -> range:
        return range(len(self.widths))

    def _weighted(self, function: CellFunction, row_offset: Tensor, **given: Any) -> Tensor:
        """Return the sums over widths, by their weights, of offsets (rows,) or (rows, widths)."""
        offsets = row_offset.unbind(1) if self.prefixes else [row_offset]
        sums = [
            one.sum(function, of_width, **given)
            for one, of_width in zip(self.widths, offsets, strict=True)
        ]
        return self.prefixes.weighted(torch.stack(sums)) if self.prefixes else sums[0]

    def _together(self, values: list[Tensor]) -> Tensor:
        return torch.stack(values, -1) if self.prefixes else values[0]

    def _of_rows(self, values: Tensor) -> Tensor:
        """Return values of items, (items, …), as those of the engine's rows."""
        return values if self.count == 1 else values.repeat_interleave(self.count, 0)

    def _by_item(self, values: Tensor) -> Tensor:
        return values.view(len(self.items), self.count, *values.shape[1:])


def add_log_sum_exp(
    values: Tensor,
    negatives: list[Negatives],
    scale: Tensor | None,
    tile: int | None,
    form: Form | None = None,
) -> Tensor:
    """Return log-sum-exps (rows,) with those of further negatives added."""
    for more in negatives:
        values = log_add_exp(values, more.log_sum_exp(scale, tile, form))
    return values
