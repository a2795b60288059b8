"""Log of a training run: a bar or plain lines, metrics.jsonl, TensorBoard."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from xmodal.activity import printed, reporting
from xmodal.errors import printable
from xmodal.evaluation.protocols.registry import logged_metrics
from xmodal.evaluation.report.speed import mean_speed, speed_line
from xmodal.runs.events import drop_events_after
from xmodal.runs.run import Run
from xmodal.terminal import console
from xmodal.training.stagnation import Stagnation
from xmodal.training.timeline import StageSpan

# Logged lines in which all scores are alike, after which the log says so. A training that is well
# begins there, and leaves it.
COLLAPSED_LINES = 10
SUMMARY = 20  # lines after which another one says where the time went
LONG_WAIT = 0.1  # share of the time, above which the log says what data is waited for


class TrainingLog:
    """Log of rank 0; on other ranks it prints and writes nothing."""

    def __init__(self, run: Run, *, first_step: int, steps: int, speaks: bool) -> None:
        self.run, self.speaks, self.steps = run, speaks, steps
        self.collapsed = 0  # lines so far
        self.laps: list[dict[str, Any]] = []  # since the last line about phases
        self._open = ExitStack()  # what reports activities while the log is open
        self.first_step, self.stagnation = first_step, Stagnation()
        self.console = console(width=None if sys.stdout.isatty() else 110, soft_wrap=True)
        self.bar = Progress(
            # A stage may be called anything, and what looks like markup is none.
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}", markup=False),
            TimeRemainingColumn(),
            console=self.console,
            disable=not (speaks and self.console.is_terminal),
        )
        self.task = self.bar.add_task("training", total=steps, completed=first_step, numbers="")
        if speaks:
            # TensorBoard takes a second to import, which silent ranks need not spend.
            from torch.utils.tensorboard import SummaryWriter

            with run.writing(run.tensorboard):
                drop_events_after(run.tensorboard, first_step)
                self.board = SummaryWriter(str(run.tensorboard))

    def __enter__(self) -> Self:
        self.bar.start()
        if self.speaks:
            self._open.enter_context(reporting(self.show_activity))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()
        self.bar.stop()
        if self.speaks:
            with self.run.writing(self.run.tensorboard):
                self.board.close()

    def step(self, step: int, span: StageSpan, values: Mapping[str, Any]) -> None:
        """Log the values of a training step of a stage."""
        if not self.speaks:
            return
        stage = span.config.name
        rate, left = values["samples_per_second"], values["seconds_left"]
        numbers = f"loss {values['loss']:.4f}  {rate:.0f} samples/s"
        self.bar.update(self.task, completed=step, description=stage, numbers=numbers)
        if not self.console.is_terminal:
            wait = f"{values['data_wait']:.0%}"
            if values["data_wait"] >= LONG_WAIT and values["read_wait"] >= LONG_WAIT:
                wait += f" (storage, longest for {values['slowest_shard']})"
            self.say(
                f"{stage} step {step}/{self.steps}  {numbers}  {_use(values)}data wait {wait}  "
                f"left {int(left) // 60}:{int(left) % 60:02d}"
            )
        self._warn_of_collapse(values.get("collapse", 0.0))
        if self.first_step <= span.start:
            warning = self.stagnation.warning(stage, values["loss"])
            if warning:
                self.say(f"warning: {warning}")
        self._write(step, span, values)
        with self.run.writing(self.run.tensorboard):
            self.board.add_scalar("stage", span.number, step)
        self.laps.append({"stage": stage} | dict(values))
        if step == span.end or len(self.laps) == SUMMARY:
            self._say_phases(stage)

    def _say_phases(self, stage: str) -> None:
        """Log where the time went since the last such line."""
        line = speed_line(mean_speed(self.laps))
        if line:
            self.say(f"{stage}: time by phase: {line}")
        self.laps = []

    def _warn_of_collapse(self, share_alike: float) -> None:
        self.collapsed = self.collapsed + 1 if share_alike > 0.99 else 0
        if self.collapsed == COLLAPSED_LINES:
            self.say(
                "warning: all scores are alike, and the loss is the constant of its margins: the "
                "embeddings have collapsed into one point. Train with semi-hard or all negatives "
                "(a stage's `losses`, or method.objective.negatives), or a lower optimizer.lr"
            )

    def evaluation(
        self,
        step: int,
        span: StageSpan,
        metrics: Mapping[str, float],
        sheet: np.ndarray | None,
        *,
        averaged: bool = False,
    ) -> None:
        """Log an evaluation's metrics and a picture of retrieved examples, (height, width, 3).

        `averaged` tells whether they are of averaged weights.
        """
        if not self.speaks:
            return
        self._write(step, span, metrics)
        if sheet is not None:
            with self.run.writing(self.run.tensorboard):
                self.board.add_image("retrieved", sheet, step, dataformats="HWC")
        shown = "  ".join(f"{k} {v:.1f}" for k, v in logged_metrics(metrics).items())
        weights = " (averaged weights)" if averaged else ""
        self.say(f"evaluation at step {step}{weights}: {shown}")

    def say(self, line: str) -> None:
        """Print a line, above the bar if there is one."""
        if self.speaks:
            self.console.print(printable(line), markup=False, highlight=False)
            printed()

    def say_all(self, lines: Sequence[str]) -> None:
        """Print some lines."""
        for line in lines:
            self.say(line)

    def show_activity(self, line: str) -> None:
        """Show the current activity: before the bar, or as a line where there is none."""
        if self.console.is_terminal:
            self.bar.update(self.task, description=line)
        else:
            self.console.print(printable(line), markup=False, highlight=False)

    def _write(self, step: int, span: StageSpan, values: Mapping[str, float | str]) -> None:
        self.run.log({"step": step, "stage": span.config.name} | dict(values))
        with self.run.writing(self.run.tensorboard):
            for name, value in values.items():
                if not isinstance(value, str):
                    self.board.add_scalar(name, value, step)
            self.board.flush()


def _use(values: Mapping[str, Any]) -> str:
    """Return how much of the device a step uses, as far as that is known."""
    each, rate = values.get("samples_per_second_per_device", 0.0), values["samples_per_second"]
    share = f"({each:.0f} a device)  " if 0 < each < rate else ""
    mfu = f"MFU {values['mfu']:.0%}  " if "mfu" in values else ""
    memory = f"{values['peak_memory_gb']:.1f} GB  " if "peak_memory_gb" in values else ""
    return share + mfu + memory
