"""Functions of scores in place of the scores, and positives in place of negatives.

They are forms of the passes over tiles, in plain PyTorch: `form=Transformed(function)`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from xmodal.objectives.pairwise.plain_engine import PlainEngine, slopes_of, statistics_of
from xmodal.objectives.pairwise.statistics import Statistics
from xmodal.objectives.pairwise.tiles import NoNegatives, Tiles


@dataclass(frozen=True)
class Logits:
    """A function of a tile of scores, and its derivative."""

    of_rows: Tensor  # (rows, columns) those that are added up by row; −∞ is none
    of_columns: Tensor  # those that are added up by column: the same tensor, or of other scores
    slopes: Tensor | None = None  # (rows, columns) derivative by each score; None: 1

    @property
    def are_one(self) -> bool:
        """True where rows and columns share their tensor."""
        return self.of_rows is self.of_columns


# Of finite scores (rows, columns), which it may overwrite, and of the tile's rows and columns.
LogitFunction = Callable[[Tensor, slice, slice], Logits]


@dataclass(frozen=True)
class Transformed:
    """A function of the scores x·y, or the scores themselves, of negatives or of positives.

    The log-sum-exp is then that of the function. Positives are rows and columns of equal ids.
    """

    function: LogitFunction | None = None
    positives: bool = False
    of_pair: ClassVar[tuple[int, ...]] = ()  # a pair has one score

    def engine(
        self,
        x: Tensor,
        y: Tensor,
        ids: NoNegatives | None,
        size: int | None,
        scale: Tensor | None,
    ) -> PlainEngine:
        """Return what computes tiles of it."""
        tiles = Tiles(x, y, ids, size, scale, positives=self.positives)
        return _TransformedEngine(tiles, self.function) if self.function else PlainEngine(tiles)


class _TransformedEngine(PlainEngine):
    def __init__(self, tiles: Tiles, function: LogitFunction) -> None:
        super().__init__(tiles)
        self.function = function

    def statistics(self) -> Iterator[tuple[slice, slice, Statistics, Statistics]]:
        for i, j in self.tiles.blocks():
            logits = self._logits(i, j)
            if logits.are_one:
                yield i, j, *statistics_of(logits.of_rows)
            else:
                yield (
                    i,
                    j,
                    Statistics.along(1, logits.of_rows),
                    Statistics.along(0, logits.of_columns),
                )

    def slopes(
        self, i: slice, j: slice, rows: Sequence[Tensor], columns: Sequence[Tensor]
    ) -> Tensor:
        """Return (gᵢ exp(f(sᵢⱼ) − rᵢ) + hⱼ exp(f(sᵢⱼ) − cⱼ)) f'(sᵢⱼ) of a tile."""
        logits = self._logits(i, j)
        if logits.are_one:
            slopes = slopes_of(logits.of_rows, rows, columns)
        else:
            (r, g), (c, h) = rows, columns
            slopes = logits.of_rows.sub_(r[:, None]).exp_().mul_(g[:, None])
            slopes.addcmul_(logits.of_columns.sub_(c).exp_(), h)
        return slopes if logits.slopes is None else slopes.mul_(logits.slopes)

    def _logits(self, i: slice, j: slice) -> Logits:
        """Return the function of a tile's scores, −∞ where they do not count."""
        scores = self.tiles.scores(i, j)
        if not self.tiles.may_meet(i, j):
            return self.function(scores, i, j)
        skipped = scores.isneginf()
        logits = self.function(scores.masked_fill_(skipped, 0), i, j)
        for side in (logits.of_rows, logits.of_columns):
            side.masked_fill_(skipped, -torch.inf)
        return logits
