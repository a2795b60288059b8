"""Statistics, slopes and sums of tiles in plain PyTorch: on any device, in any precision."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from xmodal.devices import is_on_host
from xmodal.objectives.pairwise.cells import Cell, CellFunction
from xmodal.objectives.pairwise.gradients import Gradients
from xmodal.objectives.pairwise.statistics import Statistics
from xmodal.objectives.pairwise.tiles import Tiles

# Where a tile's maxima or statistics lie within this of each other, one exponential serves rows
# and columns: what then underflows is a share of less than e⁻⁴⁰ of any sum.
SPREAD = 40.0


class Top(NamedTuple):
    """The greatest scores of a block's rows or columns."""

    scores: Tensor  # (length,)
    places: Tensor  # (length,) int64: the first column, or row, of that score


@dataclass(frozen=True)
class Logits:
    """A function of a tile of scores, and its derivative."""

    of_rows: Tensor  # (rows, columns) those that are added up by row; −∞ is none
    of_columns: Tensor  # those that are added up by column: the same tensor, or of other scores
    slopes: Tensor | None = None  # (rows, columns) derivative by each score; None: 1


# Of finite scores (rows, columns), which it may overwrite, of the tile's rows and columns, and of
# the number of the width that they are of, 0 where there is one.
LogitFunction = Callable[[Tensor, slice, slice, int], Logits]


class PlainEngine:
    """Computes what losses need of tiles, whose scores are written and read.

    With a function, log-sum-exps are those of the function of scores.
    """

    def __init__(self, tiles: Tiles, function: LogitFunction | None = None) -> None:
        self.tiles, self.function = tiles, function

    def gradients(self, needed: Sequence[bool] = (True, True)) -> Gradients:
        """Return sums of the gradients by x and y, as far as `needed`, still 0."""
        return Gradients(self.tiles, needed)

    def statistics(self) -> Iterator[tuple[slice, slice, Statistics, Statistics]]:
        """Yield the statistics of rows and columns of blocks of the scores."""
        for i, j in self.tiles.blocks():
            yield i, j, *self._statistics(self.tiles.scores(i, j), i, j)

    def slopes(
        self, i: slice, j: slice, rows: Sequence[Tensor], columns: Sequence[Tensor]
    ) -> Tensor:
        """Return gᵢ exp(sᵢⱼ − rᵢ) + hⱼ exp(sᵢⱼ − cⱼ) of a tile, (rows, columns).

        `rows` are r and g of the tile's rows, `columns` c and h of its columns. Of a function f it
        is (gᵢ exp(f(sᵢⱼ) − rᵢ) + hⱼ exp(f(sᵢⱼ) − cⱼ)) f'(sᵢⱼ).
        """
        return self._slopes(self.tiles.scores(i, j), i, j, rows, columns)

    def cell(self, function: CellFunction, i: slice, j: slice, a: Tensor, b: Tensor) -> Cell:
        """Return a function of a tile's scores and of offsets a (rows,) and b (columns,).

        Its slopes are by products: (rows × K, columns × K) of K embeddings an item.
        """
        tile = self.tiles.tile(i, j)
        cell = function(tile.scores, a[:, None], b[None])
        return replace(cell, slopes=self.tiles.by_product(tile, cell.slopes))

    def greatest(
        self, below: tuple[Tensor, Tensor] | None = None
    ) -> Iterator[tuple[slice, slice, list[Top], list[Top]]]:
        """Yield the greatest scores of rows and of columns of blocks of the scores.

        With `below` (rows,) and (columns,), the greatest that are less than that come second.
        """
        for i, j in self.tiles.blocks():
            scores = self.tiles.scores(i, j)
            of_rows, of_columns = [top_of(scores, 1, j)], [top_of(scores, 0, i)]
            if below:
                of_rows.append(top_of(under(scores, below[0][i, None]), 1, j))
                of_columns.append(top_of(under(scores, below[1][j]), 0, i))
            yield i, j, of_rows, of_columns

    def _statistics(
        self, scores: Tensor, i: slice, j: slice, width: int = 0
    ) -> tuple[Statistics, Statistics]:
        if self.function is None:
            return statistics_of(scores)
        logits = self._logits(self.function, scores, i, j, width)
        if logits.of_rows is logits.of_columns:
            return statistics_of(logits.of_rows)
        return Statistics.along(1, logits.of_rows), Statistics.along(0, logits.of_columns)

    def _slopes(
        self,
        scores: Tensor,
        i: slice,
        j: slice,
        rows: Sequence[Tensor],
        columns: Sequence[Tensor],
        width: int = 0,
    ) -> Tensor:
        if self.function is None:
            return slopes_of(scores, rows, columns)
        logits = self._logits(self.function, scores, i, j, width)
        if logits.of_rows is logits.of_columns:
            slopes = slopes_of(logits.of_rows, rows, columns)
        else:
            (r, g), (c, h) = rows, columns
            slopes = logits.of_rows.sub_(r[:, None]).exp_().mul_(g[:, None])
            slopes.addcmul_(logits.of_columns.sub_(c).exp_(), h)
        return slopes if logits.slopes is None else slopes.mul_(logits.slopes)

    def _logits(
        self, function: LogitFunction, scores: Tensor, i: slice, j: slice, width: int
    ) -> Logits:
        """Return a function of a tile's scores, −∞ where they do not count."""
        if not self.tiles.may_meet(i, j):
            return function(scores, i, j, width)
        skipped = scores.isneginf()
        logits = function(scores.masked_fill_(skipped, 0), i, j, width)
        for side in (logits.of_rows, logits.of_columns):
            side.masked_fill_(skipped, -torch.inf)
        return logits


def statistics_of(scores: Tensor) -> tuple[Statistics, Statistics]:
    """Return the statistics of a tile's rows (rows,) and columns (columns,)."""
    # Of nothing but −∞ the maximum must stay finite.
    row_max, column_max = (scores.amax(dim).clamp_(torch.finfo(scores.dtype).min) for dim in (1, 0))
    (row_low, top), (column_low, _) = row_max.aminmax(), column_max.aminmax()
    if is_on_host(top) and top - torch.minimum(row_low, column_low) < SPREAD:
        exponentials = scores.sub_(top).exp_()
        return (
            Statistics(top.expand_as(row_max), exponentials.sum(1)),
            Statistics(top.expand_as(column_max), exponentials.sum(0)),
        )
    by_row = (scores - row_max[:, None]).exp_().sum(1)
    by_column = scores.sub_(column_max).exp_().sum(0)
    return Statistics(row_max, by_row), Statistics(column_max, by_column)


def slopes_of(scores: Tensor, rows: Sequence[Tensor], columns: Sequence[Tensor]) -> Tensor:
    """Return gᵢ exp(sᵢⱼ − rᵢ) + hⱼ exp(sᵢⱼ − cⱼ), (rows, columns), in place of a tile's scores."""
    (r, g), (c, h) = rows, columns
    (row_low, row_high), (column_low, column_high) = r.aminmax(), c.aminmax()
    low, high = torch.minimum(row_low, column_low), torch.maximum(row_high, column_high)
    if is_on_host(high) and high - low < SPREAD:
        row_weights, column_weights = g * (low - r).exp(), h * (low - c).exp()
        return scores.sub_(low).exp_().mul_(row_weights[:, None] + column_weights)
    by_rows = (scores - r[:, None]).exp_().mul_(g[:, None])
    return by_rows.addcmul_(scores.sub_(c).exp_(), h)


def top_of(scores: Tensor, dim: int, block: slice) -> Top:
    """Return the greatest scores of a tile along `dim`, whose places are those of a block."""
    top, place = scores.max(dim)
    return Top(top, place + block.start)


def under(scores: Tensor, limit: Tensor) -> Tensor:
    """Return the scores that are less than a limit, −∞ for all others."""
    return scores.masked_fill(scores >= limit, -torch.inf)
