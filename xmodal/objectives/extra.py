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
from xmodal.objectives.negatives import Negatives, OwnNegatives
from xmodal.objectives.pairwise.prefixes import Prefixes
from xmodal.objectives.pairwise.tiles import Alike

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
        prefixes: Prefixes | None = None,
    ) -> "Negatives":
        """Return them as negatives of this rank's items (rows, …) of the other side, with ids.

        With a limit, rows skip columns whose `likeness` has a product above it with their y.
        """
        if self.seen == "own":
            return OwnNegatives(items, self.columns, (ids, self.ids), prefixes)
        columns, column_ids = self.columns.to(dtype), self.ids
        if not self.replicated and world_size() > 1:
            columns, column_ids = gather(columns), gather(column_ids)
        if limit is None or self.likeness is None or y is None:
            return Negatives(items, columns, (ids, column_ids), prefixes)
        alike = Alike(ids, column_ids, y, self.likeness, limit)
        return Negatives(items, columns, alike, prefixes)


def check_sides(extra: Sequence[Extra], sides: Sequence[Side], name: str) -> None:
    """Raise `ValueError` where there are extra negatives on a side that a loss has no term for."""
    for one in extra:
        if one.side not in sides:
            raise ValueError(f"{name} takes no extra negatives beside {one.side}; remove them")
