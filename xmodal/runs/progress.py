"""Progress of a run, as checkpoints record it, and timing of its steps."""

import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from xmodal.components.validation import nearest
from xmodal.data.batch import Fault
from xmodal.errors import UserError

NAMED_FAULTS = 20  # unreadable samples that the log names; the rest are counted


@dataclass
class Progress:
    """Completed steps, unreadable samples by cause, and the best evaluation."""

    step: int = 0
    fault_causes: dict[str, int] = field(default_factory=dict)
    part_causes: dict[str, int] = field(default_factory=dict)  # of captions and labels dropped
    skipped: int = 0  # samples outside the image sizes that the recipe sets
    retries: int = 0  # retried reads of a bucket
    best: float | None = None
    best_step: int | None = None
    measured: dict[str, float] = field(default_factory=dict)  # at the last stage's end, by name
    watched: float | None = None  # the best value of what early stopping watches, and its step
    watched_step: int = 0
    evaluations_without_gain: int = 0  # since then
    stopped: str | None = None  # why the run ended before its last step

    @property
    def faults(self) -> int:
        """Number of unreadable samples so far."""
        return sum(self.fault_causes.values())

    @property
    def parts(self) -> int:
        """Number of captions and labels so far that were dropped from samples that were used."""
        return sum(self.part_causes.values())

    @property
    def counts(self) -> dict[str, int]:
        """Numbers of samples that were not used as they are, and of retried reads, for the log."""
        return {
            "bad_samples": self.faults,
            "dropped_parts": self.parts,
            "skipped": self.skipped,
            "read_retries": self.retries,
        }

    def causes(self) -> str:
        """Return the causes of unreadable samples with their numbers."""
        return ", ".join(f"{cause}: {number}" for cause, number in self.fault_causes.items())

    def count(self, faults: Sequence[Fault]) -> list[str]:
        """Count faults and return lines that name the first ones.

        Samples that the recipe skips, and dropped parts, are counted separately.
        """
        self.skipped += sum(fault.by_choice for fault in faults)
        bad = [fault for fault in faults if not (fault.by_choice or fault.partial)]
        parts = [fault for fault in faults if fault.partial]
        lines = [
            *_named(bad, self.faults, "bad sample, a neighbour takes its place", "bad_samples"),
            *_named(parts, self.parts, "part of a sample, dropped", "dropped_parts"),
        ]
        self.fault_causes = _counted(self.fault_causes, bad)
        self.part_causes = _counted(self.part_causes, parts)
        return lines

    def count_retries(self, warnings: Sequence[str]) -> list[str]:
        """Count retried reads and return lines that name the first ones."""
        room = max(0, NAMED_FAULTS - self.retries)
        self.retries += len(warnings)
        more = ["further retried reads are counted (read_retries) but not named"]
        return [*warnings[:room], *(more if 0 < room <= len(warnings) else [])]

    def improves(self, metrics: Mapping[str, float], name: str) -> bool:
        """Return True if metrics are the best so far, and record them.

        `name` may omit the protocol. Raises `UserError` if no metric has that name.
        """
        if not metrics:
            return False
        value = find_metric(metrics, name)
        if self.best is not None and value <= self.best:
            return False
        self.best, self.best_step = value, self.step
        return True


def find_metric(metrics: Mapping[str, float], name: str, key: str = "checkpoints.best") -> float:
    """Return the metric of a full name or a name without protocol; `UserError`, about the `key`
    that names it, if there is none.
    """
    full = full_name(name, metrics)
    if full is not None:
        return metrics[full]
    known = ", ".join(metrics) or "none of which higher is better: add evaluation.protocols"
    raise UserError(
        f"{key}: unknown metric {name}{near_metric(name, metrics)}; known metrics: {known}"
    )


def full_name(name: str, names: Collection[str]) -> str | None:
    """Return the full name of a metric, given with or without its protocol; None if unknown."""
    return next((full for full in names if full == name or full.endswith(f"/{name}")), None)


def near_metric(name: str, names: Collection[str]) -> str:
    """Return a hint at the nearest metric, with or without its protocol; "" if none is near."""
    parts = [full.split("/") for full in names]
    return nearest(name, ["/".join(one[at:]) for one in parts for at in range(len(one))])


def _named(faults: Sequence[Fault], before: int, what: str, key: str) -> list[str]:
    """Return lines about faults, of the first `NAMED_FAULTS` of a run; `before` have been."""
    room = max(0, NAMED_FAULTS - before)
    lines = [f"{what}: {fault}" for fault in faults[:room]]
    more = f"further {key.replace('_', ' ')} are counted ({key}) but not named"
    return [*lines, *([more] if 0 < room <= len(faults) else [])]


def _counted(causes: Mapping[str, int], faults: Sequence[Fault]) -> dict[str, int]:
    return dict(Counter(causes) + Counter(fault.cause for fault in faults))


class Stopwatch:
    """Measures samples per second, the share of time spent waiting for data, and time left."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self.steps, self.waited, self.worked = 0, 0.0, 0.0
        self._resumed = time.perf_counter()
        self._seconds_a_step: float | None = None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time inside as waiting for data."""
        started = time.perf_counter()
        yield
        self.waited += time.perf_counter() - started

    def step_done(self) -> None:
        """Count a step, and the time since the last one."""
        now = time.perf_counter()
        self.steps += 1
        self.worked += now - self._resumed
        self._resumed = now

    def resume(self) -> None:
        """Exclude the time since the last step, spent on evaluation and checkpoints."""
        self._resumed = time.perf_counter()

    def lap(self, steps_left: int) -> dict[str, float]:
        """Return the figures since the last lap, and start a new lap."""
        a_step = self.worked / self.steps
        # Smoothed, so that one slow lap does not make the time left jump.
        before = self._seconds_a_step or a_step
        self._seconds_a_step = 0.7 * before + 0.3 * a_step
        figures = {
            "samples_per_second": self.batch_size / a_step,
            "data_wait": self.waited / self.worked,
            "seconds_left": steps_left * self._seconds_a_step,
        }
        self.steps, self.waited, self.worked = 0, 0.0, 0.0
        return figures
