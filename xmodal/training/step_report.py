"""Report of a training step: on the device until it is read, as a rule a step later."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from xmodal.data.batch import Batch
from xmodal.devices import Reading, copy_to


class StepReport:
    """Values of a step for the log, and what ranks agree on by them.

    `shared` are sums over ranks: of the losses `names`, of their weighted sum, and of how many
    samples are reported, how many ranks have been asked to stop, and how many have written the
    checkpoint in progress. `own` are numbers of this rank on the device, `known` those of the host.
    """

    losses: dict[str, float]  # once it is read, as all that follows
    values: dict[str, float]
    num_reports: float
    num_asked: float
    num_written: float

    def __init__(
        self,
        step: int,
        batch: Batch,
        names: Sequence[str],
        shared: Tensor,
        own: Mapping[str, Tensor],
        known: dict[str, float],
    ) -> None:
        self.step = step  # completed steps, this one included
        self.samples = Batch(faults=batch.faults, warnings=batch.warnings)
        self._names, self._own, self._known = names, list(own), known
        parts = (copy_to(shared.device, one.detach()) for one in (shared, *own.values()))
        self._reading = Reading(torch.cat([one.double().flatten() for one in parts]))

    def read(self, ranks: int) -> None:
        """Wait for the values, of which those of losses are means over ranks."""
        numbers = iter(self._reading.numbers())
        self.losses = {name: next(numbers) / ranks for name in self._names}
        self.values = {"loss": next(numbers) / ranks}
        self.values |= {f"loss/{name}": value for name, value in self.losses.items()}
        self.num_reports, self.num_asked, self.num_written = (next(numbers) for _ in range(3))
        self.values |= dict(zip(self._own, numbers, strict=True)) | self._known
