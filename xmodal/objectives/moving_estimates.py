"""Moving averages of positive values of every training sample, over the steps that it comes in."""

import math
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor

from xmodal.distributed.collectives import gather
from xmodal.objectives.pairwise.tiles import first_equal
from xmodal.objectives.training_state import TrainingState


class MovingEstimates(TrainingState):
    """Moving averages of `values` numbers of each training sample, kept as logarithms.

    All ranks keep all of them, in memory linear in the samples: 4 bytes a value. They are keyed by
    the number of the sample, and so depend neither on ranks nor on workers.
    """

    log_averages: Tensor  # (values, samples); −∞ of a sample that has not come yet

    def __init__(self, values: int, num_samples: int = 0) -> None:
        super().__init__()
        self.values = values
        self.register_buffer("log_averages", torch.full((values, num_samples), -torch.inf))

    def make_room(self, num_samples: int) -> None:
        """Forget all averages, and make room for those of so many samples."""
        self.log_averages = self.log_averages.new_full((self.values, num_samples), -torch.inf)

    def forward(self, samples: Tensor, logs: Tensor, weight: float, counts: list[int]) -> Tensor:
        """Return the logarithms, (values, rows), of (1 − weight) · average + weight · new value.

        Given are the numbers of this rank's samples, (rows,) int64, the logarithms of their new
        values, (values, rows), and the rows of each rank. Of a sample's first value, it is that
        value; −∞ is none. Where gradients are computed, the averages of all ranks' samples are
        replaced: of a sample that comes twice in a batch, as where epochs meet, by the greater one.
        """
        if not self.log_averages.shape[1]:
            raise ValueError("no samples to keep averages of: call make_room(num_samples) first")
        before = self.log_averages[:, samples].to(logs.dtype)
        old = math.log1p(-weight) if weight < 1 else -math.inf
        after = torch.logaddexp(before + old, logs + math.log(weight))
        after = torch.where(before.isneginf(), logs, after)
        after = torch.where(logs.isneginf(), before, after)
        if torch.is_grad_enabled():
            self._replace(gather(samples, counts), gather(after.T.contiguous(), counts).T)
        return after

    def _replace(self, samples: Tensor, logs: Tensor) -> None:
        first = first_equal(samples, samples).expand_as(logs)
        greatest = torch.full_like(logs, -torch.inf).scatter_reduce(1, first, logs, "amax")
        self.log_averages[:, samples] = greatest.gather(1, first).to(self.log_averages.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Follow a module to its device, and stay in single precision where it is halved."""
        exact = self.log_averages
        super()._apply(fn, recurse)
        if self.log_averages.dtype.itemsize < 4:
            self.log_averages = exact.to(self.log_averages.device)
        return self
