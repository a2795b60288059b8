"""Extra negatives beside those of the batch: written texts, mined items, a queue.

They are no pair's own, so that the loss has no term of them alone: they appear in those of the
pairs that they are negatives of. Objectives whose configuration has `takes_extra` take them.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from xmodal.distributed.collectives import gather, world_size
from xmodal.objectives.config import check_choice
from xmodal.objectives.pairwise import hardest, log_sum_exp, pair_scores, pair_sum
from xmodal.objectives.pairwise.cells import CellFunction
from xmodal.objectives.pairwise.tiles import NO_ROWS, Alike, NoNegatives, precise

Side = Literal["x", "y"]
Seen = Literal["all", "own"]


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
            return OwnNegatives(items, self.columns, ids, self.ids)
        columns, column_ids = self.columns.to(dtype), self.ids
        if not self.replicated and world_size() > 1:
            columns, column_ids = gather(columns), gather(column_ids)
        if limit is None or self.likeness is None or y is None:
            return SharedNegatives(items, columns, (ids, column_ids))
        return SharedNegatives(items, columns, Alike(ids, column_ids, y, self.likeness, limit))


class SharedNegatives:
    """Columns (n, …), the same on all ranks, as negatives of all of this rank's items (rows, …)."""

    def __init__(self, items: Tensor, columns: Tensor, ids: NoNegatives) -> None:
        self.items, self.columns, self.ids = items, columns, ids
        self.rows = items.to(columns.dtype)

    def log_sum_exp(self, scale: Tensor, tile: int | None) -> Tensor:
        """Return log Σ exp(s x·y) of every row, (rows,); −∞ without a negative."""
        return log_sum_exp(self.rows, self.columns, self.ids, scale=scale, tile=tile)[0]

    def sum(
        self,
        function: CellFunction,
        row_offset: Tensor,
        *,
        scale: Tensor | None = None,
        column_offset: float = 0.0,
        tile: int | None,
    ) -> Tensor:
        """Return Σᵢⱼ f(s xᵢ·yⱼ, aᵢ, b), (), of offsets a (rows,) and a column offset b."""
        return pair_sum(
            function,
            self.rows,
            self.columns,
            self.ids,
            scale=scale,
            row_offset=row_offset,
            column_offset=row_offset.new_full((len(self.columns),), column_offset),
            tile=tile,
        )

    def hardest(self, below: Tensor | None, tile: int | None) -> Tensor:
        """Return the greatest score of every row, (rows, 1), −∞ where it has no negative.

        Where a row has scores below its limit `below` (rows,), it is the greatest of those.
        """
        limits = None if below is None else (below, below.new_zeros(len(self.columns)))
        columns = self.columns.detach()
        found = hardest(self.rows.detach(), columns, self.ids, below=limits, tile=tile).columns
        chosen = precise(self.columns.index_select(0, found.clamp(min=0)))
        return pair_scores(self.items, chosen).masked_fill(found < 0, -torch.inf)[:, None]


class OwnNegatives:
    """Columns (rows × k, …) of which each is the negative of its own row alone."""

    def __init__(self, items: Tensor, columns: Tensor, ids: Tensor, column_ids: Tensor) -> None:
        self.num_rows, self.count = len(items), len(columns) // max(len(items), 1)
        if len(columns) != self.count * self.num_rows:
            raise ValueError(
                f"{len(columns)} extra columns are not equally many of each of {len(items)} rows"
            )
        columns = columns.to(items.dtype)
        self.scores = pair_scores(self._repeated(items), columns)  # (rows × k,), not scaled
        self.skipped = (self._repeated(ids) == column_ids) | (column_ids == NO_ROWS)

    def log_sum_exp(self, scale: Tensor, tile: int | None) -> Tensor:
        """Return log Σ exp(s x·y) of every row, (rows,); about the least number without any."""
        del tile
        least = torch.finfo(self.scores.dtype).min  # −∞ would have no gradient
        scores = (scale * self.scores).masked_fill(self.skipped, least)
        return self._by_row(scores).logsumexp(1)

    def sum(
        self,
        function: CellFunction,
        row_offset: Tensor,
        *,
        scale: Tensor | None = None,
        column_offset: float = 0.0,
        tile: int | None,
    ) -> Tensor:
        """Return Σᵢⱼ f(s xᵢ·yⱼ, aᵢ, b), (), of offsets a (rows,) and a column offset b."""
        # To the engine each is a row with one column, whose id those that are skipped have.
        return pair_sum(
            function,
            self.scores[:, None],
            self.scores.new_ones(1, 1),
            (self.skipped.long(), self.skipped.new_ones(1).long()),
            scale=scale,
            row_offset=self._repeated(row_offset),
            column_offset=row_offset.new_full((1,), column_offset),
            tile=tile,
        )

    def hardest(self, below: Tensor | None, tile: int | None) -> Tensor:
        """Return the scores of every row, (rows, k), −∞ where it has no negative."""
        del below, tile
        return self._by_row(self.scores.masked_fill(self.skipped, -torch.inf))

    def _repeated(self, values: Tensor) -> Tensor:
        """Return each row of values k times, (rows × k, …)."""
        return values[:, None].expand(-1, self.count, *values.shape[1:]).flatten(0, 1)

    def _by_row(self, values: Tensor) -> Tensor:
        return values.view(self.num_rows, self.count)


Negatives = SharedNegatives | OwnNegatives


def add_log_sum_exp(
    values: Tensor, negatives: list[Negatives], scale: Tensor, tile: int | None
) -> Tensor:
    """Return log-sum-exps (rows,) with those of further negatives added."""
    least = torch.finfo(values.dtype).min  # the difference of two −∞ would be NaN
    for more in negatives:
        added = more.log_sum_exp(scale, tile)
        values = torch.logaddexp(values.clamp(min=least), added.clamp(min=least))
    return values
