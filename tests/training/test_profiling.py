"""The steps that a recipe names are profiled once, whole, and by the rank that speaks."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from xmodal.errors import UserError
from xmodal.phases import HostClock, PhaseTimes, phase
from xmodal.runs.run import Run
from xmodal.training.config import ProfileConfig
from xmodal.training.profiling import StepProfile


class Lines:
    """What a log says."""

    def __init__(self, *, speaks: bool = True) -> None:
        self.speaks, self.lines = speaks, list[str]()

    def say(self, line: str) -> None:
        self.lines.append(line)


def run_steps(folder: Path, steps: range, log: Any, *, fails_at: int = 0) -> None:
    times = PhaseTimes(HostClock())
    config = ProfileConfig(at=3, steps=2)
    with StepProfile(config, Run(folder), log, steps=9) as profile:
        for step in steps:
            with profile.step(step), times.measured("other"), phase("forward"):
                torch.ones(step, step) @ torch.ones(step, step)
            if step == fails_at:
                raise ValueError("out of memory")


def products(path: Path) -> list[list[list[int]]]:
    """The shapes of the matrix products of a trace."""
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    assert any(event.get("name") == "forward" for event in events)
    return [event["args"]["Input Dims"][:2] for event in events if event.get("name") == "aten::mm"]


def test_a_trace_has_the_steps_that_are_named(tmp_path: Path) -> None:
    log = Lines()
    run_steps(tmp_path, range(1, 8), log)
    trace = tmp_path / "profile" / "step-3.json.gz"
    assert products(trace) == [[[3, 3], [3, 3]], [[4, 4], [4, 4]]]
    (line,) = log.lines
    assert line.startswith(f"Profiled 2 steps: {trace} (open it at https://ui.perfetto.dev)")
    assert [path.name for path in trace.parent.iterdir()] == ["step-3.json.gz"]


def test_a_run_that_takes_the_steps_again_leaves_the_trace(tmp_path: Path) -> None:
    trace = tmp_path / "profile" / "step-3.json.gz"
    trace.parent.mkdir()
    trace.write_text("of before")
    log = Lines()
    run_steps(tmp_path, range(1, 8), log)
    assert trace.read_text() == "of before"
    assert log.lines == []


def test_a_run_that_ends_meanwhile_writes_the_steps_that_there_were(tmp_path: Path) -> None:
    log = Lines()
    run_steps(tmp_path, range(1, 4), log)
    assert products(tmp_path / "profile" / "step-3.json.gz") == [[[3, 3], [3, 3]]]
    assert log.lines[0].startswith("Profiled 1 steps")


@pytest.mark.parametrize("steps", [range(1, 3), range(4, 8), range(1, 2)])
def test_without_the_first_of_the_steps_nothing_is_written(steps: range, tmp_path: Path) -> None:
    run_steps(tmp_path, steps, Lines())
    assert not (tmp_path / "profile").exists()


def test_a_failure_passes_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="out of memory"):
        run_steps(tmp_path, range(1, 8), Lines(), fails_at=3)
    assert not (tmp_path / "profile").exists()
    run_steps(tmp_path, range(1, 8), Lines())  # no profiler was left running
    assert (tmp_path / "profile" / "step-3.json.gz").is_file()


def test_a_silent_rank_profiles_nothing(tmp_path: Path) -> None:
    run_steps(tmp_path, range(1, 8), Lines(speaks=False))
    assert not (tmp_path / "profile").exists()


def test_steps_after_the_last_one_are_a_mistake(tmp_path: Path) -> None:
    log: Any = Lines()
    with pytest.raises(UserError, match=r"training\.profile\.at=20 is after the last step .*, 9;"):
        StepProfile(ProfileConfig(), Run(tmp_path), log, steps=9)
