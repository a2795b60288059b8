"""A trace of some steps, and a snapshot of the GPU's memory in them, for `training.profile`."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from xmodal.activity import activity
from xmodal.errors import UserError
from xmodal.runs.run import Run
from xmodal.training.config import ProfileConfig
from xmodal.training.log import TrainingLog

HISTORY = 1_000_000  # allocations and frees that a snapshot holds
NO_SNAPSHOT = "no snapshot of memory, which only a GPU's allocator keeps"


class StepProfile:
    """Profiles the steps that the recipe names, on rank 0, once: files that are there stay.

    The step before them is profiled too and thrown away: a profiler's first step is slow.
    """

    def __init__(
        self, config: ProfileConfig | None, run: Run, log: TrainingLog, steps: int
    ) -> None:
        if config and config.at > steps:
            raise UserError(
                f"training.profile.at={config.at} is after the last step of the run, {steps}; "
                "lower it"
            )
        self.run, self.log = run, log
        self.config = config if log.speaks else None
        self.folder = run.path / "profile"
        self.profiler: Any = None  # while it records
        self.recorded = 0  # steps

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.profiler and kind is None and self.recorded:  # fewer steps than the recipe names
            self._write()
        elif self.profiler:
            self._stop()

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Profile the block, a step counted from 1, if it is one of those."""
        if self.config and number == self.config.at - 1 and not self.trace.exists():
            self._start(self.config.steps)
        yield
        if self.profiler and self.config:
            self.recorded = number + 1 - self.config.at
            if self.recorded == self.config.steps:
                self._write()
            else:
                self.profiler.step()

    @property
    def trace(self) -> Path:
        """The file of the trace."""
        assert self.config
        return self.folder / f"step-{self.config.at}.json.gz"

    def _start(self, steps: int) -> None:
        gpu = torch.cuda.is_available()
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it prints when it starts and stops
        self.profiler = profile(
            activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if gpu else [])],
            schedule=schedule(wait=0, warmup=1, active=steps),
            record_shapes=True,
        )
        self.profiler.start()
        if gpu:
            torch.cuda.memory._record_memory_history(max_entries=HISTORY)

    def _stop(self) -> Any:
        """Stop recording, and return the profiler."""
        profiler, self.profiler = self.profiler, None
        profiler.stop()
        if torch.cuda.is_available():
            torch.cuda.memory._record_memory_history(enabled=None)
        return profiler

    def _write(self) -> None:
        with activity("writing the profile"), self.run.writing(self.folder):
            self.folder.mkdir(exist_ok=True)
            snapshot = self._write_snapshot()
            part = self.trace.with_name(f".{self.trace.name}")  # renamed once it is whole
            self._stop().export_chrome_trace(str(part))
            part.replace(self.trace)
        self.log.say(
            f"Profiled {self.recorded} steps: {self.trace} (open it at https://ui.perfetto.dev); "
            + (
                f"{snapshot} (open it at https://pytorch.org/memory_viz)"
                if snapshot
                else NO_SNAPSHOT
            )
        )

    def _write_snapshot(self) -> Path | None:
        if not torch.cuda.is_available():
            return None
        path = self.trace.with_name(self.trace.name.replace(".json.gz", ".memory.pickle"))
        torch.cuda.memory._dump_snapshot(str(path))
        return path
