"""Cosines of prefixes of embeddings, of several widths in one pass of tiles.

The score of two items at a width w is s cos(x[:w], y[:w]). Products accumulate: those of a width
are those of the next narrower one and of the numbers between. So all widths together multiply as
often as the widest alone. Backward, slopes accumulate the other way round, from the widest to the
narrowest.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from xmodal.objectives.pairwise.cells import Cell, CellFunction
from xmodal.objectives.pairwise.gradients import Gradients
from xmodal.objectives.pairwise.plain_engine import PlainEngine, Top, top_of, under
from xmodal.objectives.pairwise.statistics import Statistics
from xmodal.objectives.pairwise.tiles import NoNegatives, Tiles, add_product, precise, tile_size


@dataclass(frozen=True)
class Prefixes:
    """Widths in rising order, the last one the whole, and the weight of each in a sum."""

    widths: tuple[int, ...]
    weights: tuple[float, ...]

    @classmethod
    def of(cls, widths: Sequence[int], weights: Sequence[float] | None) -> "Prefixes":
        """Return widths with their weights; None is 1 each."""
        return cls(tuple(widths), tuple(weights or [1.0] * len(widths)))

    def engine(
        self,
        x: Tensor,
        y: Tensor,
        ids: NoNegatives | None,
        size: int | None,
        scale: Tensor | None,
    ) -> "PrefixEngine":
        """Return what computes tiles of the scores of x (rows, dim) and y (columns, dim)."""
        return PrefixEngine(PrefixTiles(x, y, ids, size, scale, prefixes=self))

    def pair_scores(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the cosines of each item of x with the same of y, (items, widths)."""
        return self._sums(x * y) * self.inverse_lengths(x) * self.inverse_lengths(y)

    def inverse_lengths(self, vectors: Tensor) -> Tensor:
        """Return 1 / |v[:w]|, (items, widths); of a zero prefix 0, with gradient 0."""
        squares = self._sums(vectors.square())
        zero = squares == 0
        return squares.masked_fill(zero, 1).rsqrt().masked_fill(zero, 0)

    def square_lengths(self, vectors: Tensor) -> Tensor:
        """Return the squares of the lengths that prefixes have for cosines: 1, of a zero one 0."""
        return (self._sums(vectors.detach().square()) > 0).to(vectors.dtype)

    def weighted(self, values: Tensor) -> Tensor:
        """Return the weighted sum over widths, (items,), of values (items, widths)."""
        of_widths = zip(self.weights, values.unbind(-1), strict=True)
        return sum((weight * one for weight, one in of_widths), values.new_zeros(()))

    @property
    def of_pair(self) -> tuple[int, ...]:
        """Return the shape of a pair's scores: one a width."""
        return (len(self.widths),)

    @property
    def parts(self) -> list[slice]:
        """Return the numbers that each width adds to the one before."""
        return [slice(*ends) for ends in pairwise((0, *self.widths))]

    def _sums(self, values: Tensor) -> Tensor:
        return torch.stack([values[:, part].sum(1) for part in self.parts], 1).cumsum(1)


def check_widths_kept(argument: str, kept: int, prefixes: Prefixes | None) -> None:
    """Raise `ValueError` where an objective keeps something of another number of widths."""
    called = len(prefixes.widths) if prefixes else 1
    if kept != called:
        raise ValueError(f"{argument}: it keeps averages of {kept} widths, and is given {called}")


def square_lengths(items: Tensor, prefixes: Prefixes | None) -> Tensor:
    """Return |x|² of items, (items,); with prefixes those that they have for cosines."""
    return prefixes.square_lengths(items) if prefixes else precise(items).square().sum(1)


class PrefixTiles(Tiles):
    """Scores of all widths, (widths, rows, columns) a tile."""

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        ids: NoNegatives | None,
        size: int | None,
        scale: Tensor | None,
        *,
        prefixes: Prefixes,
        positives: bool = False,
    ) -> None:
        if x.ndim != 2 or x.shape[1] != prefixes.widths[-1]:
            raise ValueError(
                f"the last of the widths must be that of the embeddings, {tuple(x.shape[1:])}: "
                f"it is {prefixes.widths[-1]}"
            )
        # So that the scores of all widths take the memory of one tile.
        size = size or int(tile_size(x.device) / len(prefixes.widths) ** 0.5)
        super().__init__(x, y, ids, size, scale, positives=positives)
        self.prefixes, self.of_pair = prefixes, prefixes.of_pair
        self.inverse_x, self.inverse_y = (
            prefixes.inverse_lengths(precise(side)) for side in (self.x, self.y)
        )
        self.last = self.x.new_empty(0, dtype=self.dtype)  # products of the last tile

    def factors(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        """Return what products are multiplied by, (widths, rows, 1) and (widths, 1, columns)."""
        by_row, by_column = self.inverse_x[rows] * self.scale, self.inverse_y[columns]
        return by_row.T[:, :, None], by_column.T[:, None]

    def scores(self, rows: slice, columns: slice) -> Tensor:
        """Return the scores of a tile, (widths, rows, columns), −∞ of those that do not count."""
        self.last = self._accumulated(rows, columns)
        by_row, by_column = self.factors(rows, columns)
        scores = (self.last * by_row).mul_(by_column)
        if self.ids and self.may_meet(rows, columns):
            meet = self.ids.meet(rows, columns)
            scores.masked_fill_(~meet if self.positives else meet, -torch.inf)
        return scores

    def _accumulated(self, rows: slice, columns: slice) -> Tensor:
        x, y = self.x[rows], self.y[columns]
        products = x.new_zeros(*self.of_pair, len(x), len(y), dtype=self.dtype)
        for number, part in enumerate(self.prefixes.parts):
            if number:
                products[number] = products[number - 1]
            add_product(products[number], x[:, part], y[:, part].T)
        return products


class PrefixEngine(PlainEngine):
    """Computes what losses need of all widths in plain PyTorch, as `PlainEngine` of one."""

    tiles: PrefixTiles

    def gradients(self, needed: Sequence[bool] = (True, True)) -> "PrefixGradients":
        """Return sums of the gradients by x and y, still 0."""
        return PrefixGradients(self.tiles, needed)

    def statistics(self) -> Iterator[tuple[slice, slice, Statistics, Statistics]]:
        """Yield the statistics, (length, widths), of rows and columns of blocks of the scores."""
        for i, j in self.tiles.blocks():
            scores = enumerate(self.tiles.scores(i, j))
            of_widths = [self._statistics(of_width, i, j, number) for number, of_width in scores]
            of_rows, of_columns = zip(*of_widths, strict=True)
            yield i, j, _stacked(of_rows), _stacked(of_columns)

    def slopes(
        self, i: slice, j: slice, rows: Sequence[Tensor], columns: Sequence[Tensor]
    ) -> Tensor:
        """Return gᵢ exp(sᵢⱼ − rᵢ) + hⱼ exp(sᵢⱼ − cⱼ) of a tile, (widths, rows, columns).

        `rows` are r and g, (rows, widths), `columns` c and h.
        """
        r, g, c, h = (vector.T.contiguous() for vector in (*rows, *columns))
        scores = self.tiles.scores(i, j)
        for number, of_width in enumerate(scores):
            of_rows, of_columns = (r[number], g[number]), (c[number], h[number])
            scores[number] = self._slopes(of_width, i, j, of_rows, of_columns, number)
        return scores

    def cell(self, function: CellFunction, i: slice, j: slice, a: Tensor, b: Tensor) -> Cell:
        """Return a function of a tile's scores and of offsets a and b, (length, widths).

        Its value is the weighted sum over widths; slopes and derivatives by offsets have the
        weights too.
        """
        scores, weights = self.tiles.scores(i, j), self.tiles.prefixes.weights
        cells = [
            function(of_width, a[:, number, None], b[None, :, number])
            for number, of_width in enumerate(scores)
        ]
        value = self.tiles.prefixes.weighted(torch.stack([one.value for one in cells]))
        by_row, by_column = (
            None
            if parts[0] is None
            else torch.stack([part * one for part, one in zip(parts, weights, strict=True)], 1)
            for parts in zip(*((one.by_row, one.by_column) for one in cells), strict=True)
        )
        slopes = [one.slopes * weight for one, weight in zip(cells, weights, strict=True)]
        return Cell(value, torch.stack(slopes), by_row, by_column)

    def greatest(
        self, below: tuple[Tensor, Tensor] | None = None
    ) -> Iterator[tuple[slice, slice, list[Top], list[Top]]]:
        """Yield the greatest scores of rows and of columns of blocks, (length, widths).

        With `below` (rows, widths) and (columns, widths), those that are less come second.
        """
        for i, j in self.tiles.blocks():
            scores = self.tiles.scores(i, j)
            of_rows, of_columns = [_top(scores, 2, j)], [_top(scores, 1, i)]
            if below:
                of_rows.append(_top(under(scores, below[0][i].T[:, :, None]), 2, j))
                of_columns.append(_top(under(scores, below[1][j].T[:, None]), 1, i))
            yield i, j, of_rows, of_columns


class PrefixGradients(Gradients):
    """Sums of the gradients of the scores of all widths, through the lengths of prefixes."""

    tiles: PrefixTiles

    def __init__(self, tiles: PrefixTiles, needed: Sequence[bool] = (True, True)) -> None:
        super().__init__(tiles, needed)
        # Σ slope · score of each item: what the gradient takes off for its length.
        self.x_taken, self.y_taken = (
            side.new_zeros(len(side), *tiles.of_pair, dtype=tiles.dtype)
            for side in (tiles.x, tiles.y)
        )

    def add(self, i: slice, j: slice, slopes: Tensor) -> None:
        """Add those of the last tile of scores, given slopes (widths, rows, columns)."""
        by_row, by_column = self.tiles.factors(i, j)
        slopes = slopes.mul_(by_row).mul_(by_column)  # by products
        taken = self.tiles.last.mul_(slopes)
        self.x_taken[i] += taken.sum(2).T
        self.y_taken[j] += taken.sum(1).T
        x, y = self.tiles.x, self.tiles.y
        later = None
        for of_width, part in zip(
            reversed(slopes), reversed(self.tiles.prefixes.parts), strict=True
        ):
            later = of_width if later is None else of_width.add_(later)
            if self.x is not None:
                add_product(self.x[i, part], later, y[j, part])
            if self.y is not None:
                add_product(self.y[j, part], later.T, x[i, part])

    def sums(self) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients by x and by y."""
        tiles = self.tiles
        return (
            self._less(self.x, tiles.x, self.x_taken * tiles.inverse_x.square()),
            self._less(self.y, tiles.y, self.y_taken * tiles.inverse_y.square()),
        )

    def by_scale(self) -> Tensor:
        """Return the gradient by the scale, (1,)."""
        return self.x_taken.sum()[None] / self.tiles.scale

    def _less(self, total: Tensor | None, items: Tensor, taken: Tensor) -> Tensor | None:
        """Return gradients less what lengths take off: of a number, that of all wider prefixes."""
        if total is None:
            return None
        shares = taken.flip(1).cumsum(1).flip(1)
        of_parts = zip(self.tiles.prefixes.parts, shares.split(1, 1), strict=True)
        return total - torch.cat([items[:, part] * share for part, share in of_parts], 1)


def _stacked(widths: Sequence[Statistics]) -> Statistics:
    return Statistics(
        torch.stack([one.reference for one in widths], 1),
        torch.stack([one.sum for one in widths], 1),
    )


def _top(scores: Tensor, dim: int, block: slice) -> Top:
    top, place = top_of(scores, dim, block)
    return Top(top.T, place.T)
