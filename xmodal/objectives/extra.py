"""Extra negatives beside those of the batch: written texts, mined items, a queue.

They are no pair's own, so that the loss has no term of them alone: they appear in those of the
pairs that they are negatives of. Objectives whose configuration has `takes_extra` take them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from xmodal.distributed.collectives import gather, world_size
from xmodal.objectives.config import check_choice
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
from xmodal.objectives.pairwise.soft_counts import soft_counts
from xmodal.objectives.pairwise.tiles import NO_ROWS, Alike, NoNegatives, precise
from xmodal.objectives.pairwise.transformed import Transformed

Side = Literal["x", "y"]
Seen = Literal["all", "own"]
SIDES: tuple[Side, Side] = ("y", "x")  # of the negatives of rows, and of those of columns


@dataclass(frozen=True)
class Extra:
    """Columns beside those of a side: beside `y` they are negatives of x, beside `x` those of y.

    `all` rows see `all` ranks' columns, or each row its `own` k: columns i·k to (i + 1)·k − 1 are
    those of row i. `replicated` columns, such as a queue, are the same on every rank already.
    """

    columns: Tensor  # (n, dim), or (n, K, dim); with a gradient or without
    ids: Tensor  # (n,) int64: a row of the same id skips the column; `NO_ROWS`: every row does
    side: Side = "y"
    seen: Seen = "all"
    replicated: bool = False
    likeness: Tensor | None = None  # (n, dim), of replicated ones: what is alike to a row's y

    def __post_init__(self) -> None:
        check_choice("side", self.side, Side)
        check_choice("seen", self.seen, Seen)
        if self.ids.shape != self.columns.shape[:1] or self.ids.dtype != torch.int64:
            raise ValueError(
                f"the ids of {len(self.columns)} extra columns must be int64 (n,): they are "
                f"{self.ids.dtype} {tuple(self.ids.shape)}"
            )

    def negatives(
        self,
        items: Tensor,
        ids: Tensor,
        dtype: torch.dtype,
        limit: float | None = None,
        y: Tensor | None = None,
    ) -> "Negatives":
        """Return them as negatives of this rank's items (rows, …) of the other side, with ids.

        With a limit, rows skip columns whose `likeness` has a product above it with their y.
        """
        if self.seen == "own":
            return Negatives.own(items, self.columns, ids, self.ids)
        columns, column_ids = self.columns.to(dtype), self.ids
        if not self.replicated and world_size() > 1:
            columns, column_ids = gather(columns), gather(column_ids)
        if limit is None or self.likeness is None or y is None:
            return Negatives(items, columns, (ids, column_ids))
        return Negatives(items, columns, Alike(ids, column_ids, y, self.likeness, limit))


def check_sides(extra: Sequence[Extra], sides: Sequence[Side], name: str) -> None:
    """Raise `ValueError` where there are extra negatives on a side that a loss has no term for."""
    for one in extra:
        if one.side not in sides:
            raise ValueError(f"{name} takes no extra negatives beside {one.side}; remove them")


class Negatives:
    """Columns as negatives of this rank's items, each of which is `count` rows to the engine.

    Columns that all items share are columns, and an item is a row. Of columns of its own, an item
    has as many rows of one number, the scores, and the only column is 1.
    """

    def __init__(
        self, items: Tensor, columns: Tensor, ids: NoNegatives, each: tuple[int, int] | None = None
    ) -> None:
        self.items, self.columns, self.ids = items, columns, ids
        self.are_own = each is not None
        self.num_items, self.count = each or (len(items), 1)
        self.rows = items.to(columns.dtype)
        self.vectors = items, columns

    @classmethod
    def own(cls, items: Tensor, columns: Tensor, ids: Tensor, column_ids: Tensor) -> "Negatives":
        """Return columns (rows × k, …) of which each is the negative of its own row alone."""
        count = len(columns) // len(items) if len(items) else 1
        if len(columns) != count * len(items):
            raise ValueError(
                f"{len(columns)} extra columns are not equally many of each of {len(items)} rows"
            )
        each = len(items), count
        items, ids = (one.repeat_interleave(count, 0) for one in (items, ids))
        scores = pair_scores(items, columns.to(items.dtype))
        # A row that is to be skipped has the id of the column.
        skipped = ((ids == column_ids) | (column_ids == NO_ROWS)).long()
        one = scores.new_ones(1, 1)
        made = cls(scores[:, None], one, (skipped, skipped.new_ones(1)), each)
        made.vectors = items, columns.to(items.dtype)
        return made

    def of_rows(self, values: Tensor) -> Tensor:
        """Return values of items, (items, …), as those of the engine's rows."""
        return values if self.count == 1 else values.repeat_interleave(self.count, 0)

    def of_columns(self, value: float, *shape: int) -> Tensor:
        """Return a value for each column, (columns, …)."""
        return precise(self.items[:0]).new_full((len(self.columns), *shape), value)

    def log_sum_exp(
        self, scale: Tensor | None, tile: int | None, form: Form | None = None
    ) -> Tensor:
        """Return log Σ exp(s x·y) of every item, (items,); −∞, or the least number, without any."""
        rows, _ = log_sum_exp(self.rows, self.columns, self.ids, scale=scale, tile=tile, form=form)
        if self.count == 1:
            return rows
        # −∞ would have no gradient.
        return self._by_item(rows.clamp(min=torch.finfo(rows.dtype).min)).logsumexp(1)

    def total_log_sum_exp(self, tile: int | None) -> Tensor:
        """Return log Σᵢⱼ exp(xᵢ·yⱼ) over the items of all ranks, (); −∞ without any negative."""
        return total_log_sum_exp(self.rows, self.columns, self.ids, tile=tile)

    def counts(self) -> Tensor:
        """Return the number of negatives of every item by the ids, (items,) int64."""
        ids, column_ids, *_ = self.ids
        of_none = (column_ids == NO_ROWS).sum()
        return self._by_item(num_negatives(ids, column_ids) - of_none).sum(1)

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
            row_offset=self.of_rows(row_offset),
            column_offset=self.of_columns(column_offset),
            tile=tile,
        )

    def sum_of_distances(self, function: CellFunction, tile: int | None) -> Tensor:
        """Return Σᵢⱼ f of Euclidean distances, (), a function that takes squares of lengths."""
        of_rows, of_columns = (one.square().sum(1) for one in self.vectors)
        if self.are_own:  # a row each
            of_rows, of_columns = of_rows + of_columns, self.of_columns(0.0)
        return pair_sum(
            function,
            self.rows,
            self.columns,
            self.ids,
            row_offset=of_rows,
            column_offset=of_columns,
            tile=tile,
        )

    def soft_counts(self, limits: Tensor, scale: float, tile: int | None) -> Tensor:
        """Return Σⱼ σ(s xᵢ·yⱼ − a) of every item, for each of its limits a, (items, n, 1)."""
        counts, _ = soft_counts(
            self.rows,
            self.columns,
            self.ids,
            (self.of_rows(limits), self.of_columns(torch.inf, *limits.shape[1:])),
            scale=scale,
            form=Transformed(),
            tile=tile,
        )
        return self._by_item(counts).sum(1)

    def hardest(self, below: Tensor | None, tile: int | None) -> Tensor:
        """Return the greatest score of every item, (items, 1), −∞ where it has no negative.

        Where an item has scores below its limit `below` (items,), it is the greatest of those. Of
        an item's own k negatives, all scores are returned, (items, k).
        """
        if not len(self.columns):
            return precise(self.items[:0]).new_full((self.num_items, 1), -torch.inf)
        limits = None if below is None else (self.of_rows(below), self.of_columns(0.0))
        columns = self.columns.detach()
        found = hardest(self.rows.detach(), columns, self.ids, below=limits, tile=tile).columns
        chosen = precise(self.columns.index_select(0, found.clamp(min=0)))
        scores = pair_scores(self.items, chosen).masked_fill(found < 0, -torch.inf)
        return self._by_item(scores)

    def _by_item(self, values: Tensor) -> Tensor:
        return values.view(self.num_items, self.count, *values.shape[1:])


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
