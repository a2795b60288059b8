"""Numbers of classes, given in the order in which they come."""

from collections.abc import Mapping

import torch
from torch import Tensor

from xmodal.distributed.collectives import gather, plan_order, row_counts
from xmodal.objectives.pairwise.tiles import NO_ROWS, first_equal
from xmodal.objectives.training_state import TrainingState


class ClassNumbers(TrainingState):
    """The number of each of at most `classes` ids: new ones are given the next numbers.

    They come in the order of the plan, so that numbers are the same on any number of ranks. Which
    number a class has does not matter to a loss whose proxies are random at first.
    """

    ids: Tensor  # (classes,) int64, in the order of numbers; NO_ROWS: not given yet
    excess: Tensor  # (1,) int64, how often an id came for which no number was left

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.register_buffer("ids", torch.empty(0, dtype=torch.int64))
        self.register_buffer("excess", torch.empty(0, dtype=torch.int64))
        self.monitors: dict[str, Tensor] = {}

    def make_room(self, num_samples: int = 0) -> None:
        """Forget all classes."""
        del num_samples
        self.ids = self.ids.new_full((self.classes,), NO_ROWS)
        self.excess = self.excess.new_zeros(1)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the numbers, (rows,) int64, of this rank's ids (rows,).

        Where gradients are computed, new ids of all ranks get theirs. It is 0 for an id that has
        none, because none is left: `failure_reason` reports it.
        """
        if not len(self.ids):
            raise ValueError("no room for classes: call make_room() first")
        if torch.is_grad_enabled():
            counts = row_counts(ids)
            self._add(gather(ids, counts)[plan_order(counts, ids.device)])
        return first_equal(ids, self.ids).clamp(min=0)

    def _add(self, ids: Tensor) -> None:
        """Give numbers to ids (rows,), the same on all ranks, as far as they have none."""
        rows = torch.arange(len(ids), device=ids.device)
        is_new = (first_equal(ids, self.ids) < 0) & (first_equal(ids, ids) == rows)
        given = (self.ids != NO_ROWS).sum()
        places = given + is_new.cumsum(0) - 1
        fits = is_new & (places < self.classes)
        # One place more takes what gets no number: of a shape that depends on no value.
        padded = torch.cat([self.ids, self.ids[:1]])
        padded = padded.scatter(0, places.where(fits, self.classes), ids)
        self.ids = padded[: self.classes]
        self.excess = self.excess + (is_new & ~fits).sum()
        self.monitors = {"classes": (given + is_new.sum()).clamp(max=self.classes) + self.excess}

    def failure_reason(self, values: Mapping[str, float]) -> str | None:
        """Return why training must stop, given the values of a logged step; None if it need not."""
        if values.get("classes", 0) <= self.classes:
            return None
        return (
            f"data.train has more than the {self.classes} classes of the objective; count them, "
            "and begin another run with as many in its key classes"
        )
