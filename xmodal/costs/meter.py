"""Speed of training as the log shows it: samples a second, MFU, memory, time by phase."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from xmodal.costs.flops import StepFlops
from xmodal.costs.hardware import of_driver
from xmodal.data.batch import Batch
from xmodal.distributed.environment import Environment
from xmodal.phases import PhaseTimes, clock_of
from xmodal.runs.progress import Stopwatch

GB = 1e9


class StepMeter:
    """Measures the steps of a stage on this rank, without waiting for the device.

    MFU, model FLOPs utilisation, is the share of a GPU's peak in the precision of the run that the
    model's FLOPs take (PaLM: Chowdhery et al. 2022, arXiv 2204.02311, appendix B).
    """

    def __init__(
        self, flops: StepFlops, environment: Environment, batch_size: int, *, bf16: bool
    ) -> None:
        self.device, self.ranks = environment.device, environment.ranks
        self.batch_size, self.watch = batch_size, Stopwatch(batch_size)
        self.times = PhaseTimes(clock_of(self.device))
        # Rank 0 speaks for all.
        self.flops = flops if environment.is_main else None
        self.figures: dict[str, float] = {}  # of the last lap
        self.counted: list[float] = []  # FLOPs of each step since the last lap, a rank's share
        self.peak, self.unsaid = _peak(self.device, bf16=bf16)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside as waiting for data."""
        with self.watch.waiting(), self.times.measured("data"):
            yield

    @contextmanager
    def step(self, batch: Batch) -> Iterator[None]:
        """Count the block as a step over a rank's batch."""
        self._count(batch)
        with self.times.measured("other"):
            yield
        self.watch.step_done()

    def resume(self) -> None:
        """Exclude the time since the last step, spent on evaluation and checkpoints."""
        self.watch.resume()

    def lap(self, steps_left: int) -> dict[str, float]:
        """Return the figures since the last lap, and start a new lap.

        Of two steps that are logged at once, a GPU's reports being read late, both get the same.
        """
        if self.watch.steps:
            self.figures = self._figures(steps_left)
        return self.figures

    def _figures(self, steps_left: int) -> dict[str, float]:
        figures = self.watch.lap(steps_left)
        rate = figures["samples_per_second"]
        figures["samples_per_second_per_device"] = rate / self.ranks
        if self.counted:
            flops = sum(self.counted) / len(self.counted) * rate / self.batch_size
            figures["tflops_per_device"] = flops / 1e12
            if self.peak:
                figures["mfu"] = flops / self.peak
        self.counted = []
        shares = {f"time/{name}": share for name, share in self.times.lap().items()}
        return figures | peak_memory(self.device) | shares

    def warnings(self) -> list[str]:
        """Return what the log has to say of the measurement and has not said yet."""
        unsaid, self.unsaid = self.unsaid, []
        return unsaid

    def _count(self, batch: Batch) -> None:
        if self.flops is None:
            return
        try:
            self.counted.append(self.flops.of(batch, self.batch_size).total / self.ranks)
        except Exception as error:  # of encoders of others, which may look at values
            self.flops, self.counted = None, []
            reason = f"{type(error).__name__}: {error}".partition("\n")[0]
            self.unsaid.append(
                f"warning: the FLOPs of a step cannot be counted ({reason}); the log lacks MFU"
            )


def _peak(device: torch.device, *, bf16: bool) -> tuple[float | None, list[str]]:
    """Return the FLOP/s of a GPU in the precision of its encoders, and a warning if unknown.

    Of a CPU there are neither: what it computes at most depends on more than its name.
    """
    if device.type != "cuda":
        return None, []
    name = torch.cuda.get_device_name(device)
    tf32 = torch.get_float32_matmul_precision() != "highest"
    precision = "bf16" if bf16 else "tf32" if tf32 else "fp32"
    gpu = of_driver(name)
    if gpu and precision in gpu.peak:
        return gpu.peak[precision], []
    return None, [f"warning: the peak of {name} in {precision} is unknown; the log lacks MFU"]


def peak_memory(device: torch.device) -> dict[str, float]:
    """Return the most memory that the process has had so far, in GB.

    On a GPU: `peak_memory_gb` of tensors, and `reserved_memory_gb` with what the allocator keeps
    besides. On a CPU: all of the process.
    """
    if device.type != "cuda":
        kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"peak_memory_gb": kib * 1024 / GB}
    return {
        "peak_memory_gb": torch.cuda.max_memory_allocated(device) / GB,
        "reserved_memory_gb": torch.cuda.max_memory_reserved(device) / GB,
    }
