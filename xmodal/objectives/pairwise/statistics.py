"""Log-sum-exp statistics of tiles and their sums."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from xmodal.distributed.collectives import world_size
from xmodal.objectives.pairwise.tiles import Tiles


@dataclass
class Statistics:
    """The log-sum-exp of rows or of columns, as a reference that is about their maximum and a sum.

    What is meant is log Σ exp(s) = reference + log(sum); of nothing, the sum is 0. Of n scores
    a pair, all are (length, n).
    """

    reference: Tensor  # (length,), finite
    sum: Tensor  # (length,) Σ exp(s − reference)

    @classmethod
    def of_nothing(cls, length: int, tiles: Tiles) -> "Statistics":
        """Return the statistics of no scores yet."""
        zeros = tiles.x.new_zeros(length, *tiles.of_pair, dtype=tiles.dtype)
        return cls(torch.full_like(zeros, torch.finfo(tiles.dtype).min), zeros)

    @classmethod
    def along(cls, dim: int, scores: Tensor) -> "Statistics":
        """Return the statistics of a tile's rows (dim 1) or of its columns (dim 0)."""
        top = scores.amax(dim, keepdim=True).clamp_(torch.finfo(scores.dtype).min)
        return cls(top.squeeze(dim), (scores - top).exp_().sum(dim))

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
