"""Late interaction: items are sets of vectors, each of which seeks its best match in the other set.

An item is (tokens, dim), rows of zeros its padding; a first row always counts. Two items have two
scores: for a row, s times the mean over its tokens of their greatest product with a column's; for a
column, the mean over its own tokens. Products exist a tile at a time; the way back goes through the
pairs of tokens that were the greatest.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from xmodal.devices import is_on_host
from xmodal.objectives.pairwise.plain_engine import PlainEngine
from xmodal.objectives.pairwise.statistics import Statistics
from xmodal.objectives.pairwise.tiles import NoNegatives, Tiles, precise


@dataclass(frozen=True)
class TokenSets:
    """Scores of sets x (rows, tokens, dim) and y (columns, tokens, dim).

    Statistics of rows are of the rows' scores, those of columns of the columns' own.
    """

    of_pair: ClassVar[tuple[int, ...]] = ()  # a pair has one score, in each direction

    def engine(
        self,
        x: Tensor,
        y: Tensor,
        ids: NoNegatives | None,
        size: int | None,
        scale: Tensor | None,
    ) -> "TokenEngine":
        """Return what computes tiles of them."""
        return TokenEngine(Tiles(x, y, ids, size, scale))


@dataclass(frozen=True)
class Matches:
    """The best matches of the tokens of a tile's rows and columns."""

    rows: Tensor  # (rows, columns) scores of the rows
    columns: Tensor  # (rows, columns) scores of the columns
    of_rows: Tensor  # (rows, tokens, columns) the token of the column that is each one's best
    of_columns: Tensor  # (rows, columns, tokens) the token of the row


class TokenEngine(PlainEngine):
    """Computes the log-sum-exp and its slopes in plain PyTorch."""

    def __init__(self, tiles: Tiles) -> None:
        super().__init__(tiles)
        self.x_shares, self.y_shares = (shares(side, tiles.dtype) for side in (tiles.x, tiles.y))

    def statistics(self) -> Iterator[tuple[slice, slice, Statistics, Statistics]]:
        """Yield the statistics of rows and columns of blocks of the scores."""
        for i, j in self.tiles.blocks():
            found = self._matches(i, j)
            yield i, j, Statistics.along(1, found.rows), Statistics.along(0, found.columns)

    def slopes(
        self, i: slice, j: slice, rows: Sequence[Tensor], columns: Sequence[Tensor]
    ) -> Tensor:
        """Return slopes by products of tokens, (rows × tokens, columns × tokens).

        Those by the scores are gᵢ exp(sᵢⱼ − rᵢ) of rows (r, g), and as much of columns.
        """
        found, (r, g), (c, h) = self._matches(i, j), rows, columns
        by_row = found.rows.sub_(r[:, None]).exp_().mul_(g[:, None])
        by_column = found.columns.sub_(c).exp_().mul_(h)
        x_shares, y_shares = self.x_shares[i], self.y_shares[j]
        slopes = by_row.new_zeros(len(x_shares), x_shares.shape[1], *y_shares.shape)
        of_rows = by_row[:, None] * x_shares[:, :, None]
        slopes.scatter_add_(3, found.of_rows[..., None], of_rows[..., None])
        of_columns = by_column[..., None] * y_shares
        slopes.scatter_add_(1, found.of_columns[:, None], of_columns[:, None])
        return slopes.flatten(2).flatten(0, 1)

    def _matches(self, i: slice, j: slice) -> Matches:
        """Return those of a tile, the scores −∞ of what is no negative."""
        x_shares, y_shares = self.x_shares[i], self.y_shares[j]
        products = self.tiles.products(i, j).view(*x_shares.shape, *y_shares.shape)
        _skip_padding(products, x_shares[:, :, None, None], y_shares)
        best_of_rows, best_of_columns = products.max(3), products.max(1)
        rows = _mean(best_of_rows.values, x_shares[:, :, None], 1)
        columns = _mean(best_of_columns.values, y_shares, 2)
        ids = self.tiles.ids
        if ids and ids.may_meet(i, j):
            meet = ids.meet(i, j)
            rows.masked_fill_(meet, -torch.inf)
            columns.masked_fill_(meet, -torch.inf)
        return Matches(rows, columns, best_of_rows.indices, best_of_columns.indices)


def shares(items: Tensor, dtype: torch.dtype) -> Tensor:
    """Return each token's share in the mean over its item's tokens, (items, tokens); padding: 0."""
    counted = items.any(2)
    counted[:, 0] = True
    return counted.to(dtype) / counted.sum(1, keepdim=True)


def set_scores(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the scores of each item of x with the same of y, (items,), never rounded: that of x
    and that of y.
    """
    x, y = precise(x), precise(y)
    x_shares, y_shares = shares(x, x.dtype), shares(y, y.dtype)
    products = x @ y.mT
    products = products.masked_fill(x_shares[:, :, None] == 0, -torch.inf)
    products = products.masked_fill(y_shares[:, None] == 0, -torch.inf)
    of_x, of_y = products.max(2).values, products.max(1).values
    return _mean(of_x, x_shares, 1), _mean(of_y, y_shares, 1)


def _skip_padding(products: Tensor, x_shares: Tensor, y_shares: Tensor) -> None:
    for side in (x_shares, y_shares):
        padding = side == 0
        if not is_on_host(padding) or padding.any():
            products.masked_fill_(padding, -torch.inf)


def _mean(best: Tensor, of_tokens: Tensor, dim: int) -> Tensor:
    """Return the mean over tokens of their best products, which are −∞ of padding."""
    return (best.masked_fill(of_tokens == 0, 0) * of_tokens).sum(dim)
