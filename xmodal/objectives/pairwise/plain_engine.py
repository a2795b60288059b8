"""Statistics, slopes and sums of tiles in plain PyTorch: on any device, in any precision."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
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


class PlainEngine:
    """Computes what losses need of tiles, whose scores are written and read."""

    def __init__(self, tiles: Tiles) -> None:
        self.tiles = tiles

    def gradients(self, needed: Sequence[bool] = (True, True)) -> Gradients:
        """Return sums of the gradients by x and y, as far as `needed`, still 0."""
        return Gradients(self.tiles, needed)

    def statistics(self) -> Iterator[tuple[slice, slice, Statistics, Statistics]]:
        """Yield the statistics of rows and columns of blocks of the scores."""
        for i, j in self.tiles.blocks():
            yield i, j, *statistics_of(self.tiles.scores(i, j))

    def slopes(
        self, i: slice, j: slice, rows: Sequence[Tensor], columns: Sequence[Tensor]
    ) -> Tensor:
        """Return gᵢ exp(sᵢⱼ − rᵢ) + hⱼ exp(sᵢⱼ − cⱼ) of a tile, (rows, columns).

        `rows` are r and g of the tile's rows, `columns` c and h of its columns.
        """
        return slopes_of(self.tiles.scores(i, j), rows, columns)

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
