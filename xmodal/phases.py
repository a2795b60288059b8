"""Phases of a training step, timed without waiting for the device.

    with phase("communication"):
        dist.all_reduce(tensor)

counts the time inside as communication, not as that of the phase around it, where `PhaseTimes`
measures a step; elsewhere it does nothing. On a GPU the time is that of its stream.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from itertools import pairwise
from typing import Any, Protocol, TypeVar

import torch
from torch.profiler import record_function

# In the order in which they are shown. `other` is all of a step that has no name.
PHASES = (
    "data", "forward", "objective", "backward", "communication", "optimiser", "other",
)  # fmt: skip
T = TypeVar("T")


class Clock(Protocol):
    """Marks of time, which may lie in the future: where a device arrives later."""

    def mark(self) -> Any:
        """Return a mark of the present place in the work."""

    def is_over(self, mark: Any) -> bool:
        """Return whether the work before a mark is done, without waiting for it."""

    def seconds(self, begin: Any, end: Any) -> float:
        """Return the time between two marks that are over."""


class HostClock:
    """The clock of the process."""

    def mark(self) -> float:
        """Return the time in seconds."""
        return time.perf_counter()

    def is_over(self, mark: float) -> bool:  # noqa: ARG002 - all of them are
        """Return True."""
        return True

    def seconds(self, begin: float, end: float) -> float:
        """Return the time between two marks."""
        return end - begin


class StreamClock:
    """Events on the stream of a GPU, recorded by the process and timed by the GPU.

    Collectives that another stream runs meanwhile take no time of this one.
    """

    def __init__(self) -> None:
        self.stream = torch.cuda.current_stream()

    def mark(self) -> Any:
        """Record an event, from whichever thread."""
        event = torch.cuda.Event(enable_timing=True)
        event.record(self.stream)
        return event

    def is_over(self, mark: Any) -> bool:
        """Return whether the GPU has reached an event."""
        return bool(mark.query())

    def seconds(self, begin: Any, end: Any) -> float:
        """Return the time between two events that the GPU has reached."""
        return float(begin.elapsed_time(end)) / 1000


class PhaseTimes:
    """Seconds of each phase in the spans that are measured: steps, and waits for their data."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.inside: list[str] = []  # phases that have begun, the present one last
        self.marks: list[tuple[str, Any]] = []  # of the present span: what begins at each
        self.spans: deque[list[tuple[str, Any]]] = deque()  # those that `lap` has not counted

    @contextmanager
    def measured(self, name: str) -> Iterator[None]:
        """Measure a span; what has no other phase in it counts as `name`."""
        self.inside, self.marks = [], []
        self.begin(name)
        _MEASURING.append(self)
        try:
            yield
        finally:
            _MEASURING.remove(self)
            self.marks.append(("", self.clock.mark()))
            self.spans.append(self.marks)

    def begin(self, name: str) -> None:
        """Begin a phase within the present one."""
        self.inside.append(name)
        self.marks.append((name, self.clock.mark()))

    def end(self) -> None:
        """Return to the phase around the present one."""
        self.inside.pop()
        self.marks.append((self.inside[-1], self.clock.mark()))

    def switch(self, before: str, after: str) -> None:
        """Put a phase in the place of the present one, if that is `before`."""
        if self.inside[-1] == before:
            self.inside[-1] = after
            self.marks.append((after, self.clock.mark()))

    def lap(self) -> dict[str, float]:
        """Return the share of each phase in the spans since the last lap that are over.

        {} if there are none: a GPU may lag behind by a step.
        """
        seconds = dict.fromkeys(PHASES, 0.0)
        while self.spans and self.clock.is_over(self.spans[0][-1][1]):
            for (name, begin), (_, end) in pairwise(self.spans.popleft()):
                seconds[name] += self.clock.seconds(begin, end)
        total = sum(seconds.values())
        return {name: one / total for name, one in seconds.items()} if total else {}


_MEASURING: list[PhaseTimes] = []  # one, while a span is measured


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Count the time of the block as that of a phase, if a span is being measured."""
    times = _MEASURING[-1] if _MEASURING else None
    if times is None:
        yield
        return
    # In a trace of `training.profile` it is a range of this name.
    labelled = record_function(name) if torch._C._autograd._profiler_enabled() else nullcontext()
    times.begin(name)
    try:
        with labelled:
            yield
    finally:
        times.end()


def switch_phase(before: str, after: str) -> None:
    """Put a phase in the place of the present one, if that is `before`."""
    if _MEASURING:
        _MEASURING[-1].switch(before, after)


def in_phase(name: str, function: Callable[..., T]) -> Callable[..., T]:
    """Return a function whose calls count as a phase."""

    @wraps(function)
    def timed(*arguments: Any, **keywords: Any) -> T:
        with phase(name):
            return function(*arguments, **keywords)

    return timed


def clock_of(device: torch.device) -> Clock:
    """Return the clock that times work on a device."""
    return StreamClock() if device.type == "cuda" else HostClock()
