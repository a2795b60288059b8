"""Time belongs to the innermost phase, and is read only once it is over."""

from typing import Any

import pytest
import torch

from xmodal.phases import PHASES, HostClock, PhaseTimes, clock_of, in_phase, phase, switch_phase


class Seconds:
    """A clock that a test sets; marks after `reached` are not over, as on a GPU."""

    def __init__(self) -> None:
        self.now, self.reached = 0.0, float("inf")

    def mark(self) -> float:
        return self.now

    def is_over(self, mark: float) -> bool:
        return mark <= self.reached

    def seconds(self, begin: float, end: float) -> float:
        assert self.is_over(end), "a mark was read that a GPU has not reached"
        return end - begin


def spend(clock: Seconds, seconds: float) -> None:
    clock.now += seconds


def test_time_counts_as_that_of_the_innermost_phase() -> None:
    clock = Seconds()
    times = PhaseTimes(clock)
    with times.measured("data"):
        spend(clock, 1)
    spend(clock, 50)  # an evaluation
    with times.measured("other"):
        spend(clock, 2)
        with phase("forward"):
            spend(clock, 3)
        with phase("objective"):
            spend(clock, 1)
            in_phase("communication", spend)(clock, 4)
            spend(clock, 1)
            switch_phase("objective", "backward")
            switch_phase("objective", "backward")
            spend(clock, 5)
        spend(clock, 3)
    expected = {"data": 1, "forward": 3, "objective": 2, "communication": 4, "backward": 5}
    shares = times.lap()
    assert list(shares) == list(PHASES)
    assert {name: 20 * share for name, share in shares.items() if share} == pytest.approx(
        expected | {"other": 5}
    )
    assert times.lap() == {}


def test_a_span_that_the_device_has_not_finished_waits_for_the_next_lap() -> None:
    clock = Seconds()
    times = PhaseTimes(clock)
    for name in ("forward", "backward"):
        with times.measured("other"), phase(name):
            spend(clock, 1)
    clock.reached = 1.5
    assert times.lap()["forward"] == 1
    assert times.lap() == {}
    clock.reached = 2
    assert times.lap()["backward"] == 1


def test_phases_outside_of_a_step_and_after_a_failure_count_nothing() -> None:
    clock: Any = HostClock()
    times = PhaseTimes(clock)
    with phase("forward"):
        switch_phase("forward", "backward")
    with pytest.raises(ValueError, match="lost"), times.measured("other"), phase("forward"):
        raise ValueError("lost")
    with phase("forward"):
        pass
    assert sum(times.lap().values()) == pytest.approx(1)
    assert times.lap() == {}


@pytest.mark.gpu
def test_the_clock_of_a_gpu_times_its_stream_without_waiting() -> None:
    times = PhaseTimes(clock_of(torch.device("cuda")))
    matrix = torch.ones(4096, 4096, device="cuda")
    matrix @ matrix  # libraries load at their first use
    with times.measured("other"), phase("forward"):
        for _ in range(50):
            matrix @ matrix
    assert times.lap() == {}  # the process is ahead of the GPU
    torch.cuda.synchronize()
    assert times.lap()["forward"] > 0.9
