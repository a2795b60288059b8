"""Log-sum-exp statistics of tiles and their sums, in plain PyTorch."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from xmodal.devices import is_on_host
from xmodal.distributed.collectives import world_size
from xmodal.objectives.pairwise.tiles import Tiles

# Where a tile's maxima or statistics lie within this of each other, one exponential serves rows
# and columns: what then underflows is a share of less than e⁻⁴⁰ of any sum.
SPREAD = 40.0


@dataclass
class Statistics:
    """The log-sum-exp of rows or of columns, as a reference that is about their maximum and a sum.

    What is meant is log Σ exp(s) = reference + log(sum); of nothing, the sum is 0.
    """

    reference: Tensor  # (length,), finite
    sum: Tensor  # (length,) Σ exp(s − reference)

    @classmethod
    def of_nothing(cls, length: int, tiles: Tiles) -> "Statistics":
        """Return the statistics of no scores yet."""
        zeros = tiles.x.new_zeros(length, dtype=tiles.dtype)
        return cls(torch.full_like(zeros, torch.finfo(tiles.dtype).min), zeros)

    def add(self, where: slice, tile: "Statistics") -> None:
        """Add a tile's to a part."""
        old = self.reference[where]
        new = torch.maximum(old, tile.reference)
        self.sum[where] = (
            self.sum[where] * (old - new).exp() + tile.sum * (tile.reference - new).exp()
        )
        self.reference[where] = new

    def add_ranks(self) -> None:
        """Add what all ranks have."""
        if world_size() == 1:
            return
        greatest = self.reference.clone()
        dist.all_reduce(greatest, dist.ReduceOp.MAX)
        self.sum.mul_((self.reference - greatest).exp_())
        dist.all_reduce(self.sum)
        self.reference = greatest

    def value(self) -> Tensor:
        """Return log Σ exp, (length,); −∞ of nothing."""
        return self.reference + self.sum.log()


def statistics(tiles: Tiles, rows: slice, columns: slice) -> tuple[Statistics, Statistics]:
    """Return the statistics of a tile's rows (rows,) and columns (columns,)."""
    scores = tiles.scores(rows, columns)
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


def slopes(
    tiles: Tiles,
    rows: slice,
    columns: slice,
    by_row: Tensor,
    by_column: Tensor,
    row_gradient: Tensor,
    column_gradient: Tensor,
) -> Tensor:
    """Return gᵢ exp(sᵢⱼ − rᵢ) + gⱼ exp(sᵢⱼ − cⱼ) of a tile, (rows, columns).

    `by_row`, `row_gradient` (rows,) and `by_column`, `column_gradient` (columns,) are the tile's.
    """
    scores = tiles.scores(rows, columns)
    (row_low, row_high), (column_low, column_high) = by_row.aminmax(), by_column.aminmax()
    low, high = torch.minimum(row_low, column_low), torch.maximum(row_high, column_high)
    if is_on_host(high) and high - low < SPREAD:
        row_weights = row_gradient * (low - by_row).exp()
        column_weights = column_gradient * (low - by_column).exp()
        return scores.sub_(low).exp_().mul_(row_weights[:, None] + column_weights)
    by_rows = (scores - by_row[:, None]).exp_().mul_(row_gradient[:, None])
    return by_rows.addcmul_(scores.sub_(by_column).exp_(), column_gradient)
