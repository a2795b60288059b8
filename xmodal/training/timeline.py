"""Timeline of a run in optimiser steps: stages, evaluations, checkpoints."""

from collections.abc import Sequence
from dataclasses import dataclass

from xmodal.components.config import Span
from xmodal.training.config import StageConfig


@dataclass(frozen=True)
class StageSpan:
    """A stage and the steps that it takes: `start` is its first, `end` the one after its last."""

    config: StageConfig
    number: int  # from 0
    start: int
    end: int
    origin: int  # the step at which its order of samples began

    def progress(self, step: int) -> float:
        """Return the share of the stage that is done, 0 to 1, before `step`."""
        return (step - self.start) / (self.end - self.start)


class Timeline:
    """The steps of stages of batches of `batch_size` over `epoch_samples` samples an epoch.

    `evaluate_every` and `checkpoint_every` may be shares of all steps; of length 0, evaluations
    and checkpoints follow the ends of stages alone.
    """

    def __init__(
        self,
        stages: Sequence[StageConfig],
        *,
        batch_size: int,
        epoch_samples: int,
        evaluate_every: Span,
        checkpoint_every: Span,
    ) -> None:
        self.batch_size, self.epoch_samples = batch_size, epoch_samples
        self._sizes = {"batch_size": batch_size, "epoch_samples": epoch_samples}
        self.stages: list[StageSpan] = []
        start = origin = 0
        for number, stage in enumerate(stages):
            end = start + self.steps(stage.length)
            origin = start if stage.data == "restart" else origin
            self.stages.append(StageSpan(stage, number, start, end, origin))
            start = end
        self.total = start
        self.evaluate_every = self.steps(evaluate_every, self.total)
        self.checkpoint_every = self.steps(checkpoint_every, self.total)

    def steps(self, span: Span, stage_steps: int | None = None) -> int:
        """Return a span in steps."""
        return span.steps(stage_steps=stage_steps, **self._sizes)

    def evaluates_after(self, step: int) -> bool:
        """Return whether an evaluation follows `step` completed steps."""
        return self._ends_stage(step) or (
            bool(self.evaluate_every) and step % self.evaluate_every == 0
        )

    @property
    def evaluations(self) -> int:
        """Number of evaluations until the end."""
        every = self.evaluate_every
        ends = [stage.end for stage in self.stages if not every or stage.end % every]
        return len(ends) + (self.total // every if every else 0)

    def saves_after(self, step: int) -> bool:
        """Return whether a checkpoint follows `step` completed steps."""
        return self._ends_stage(step) or (
            bool(self.checkpoint_every) and step % self.checkpoint_every == 0
        )

    def _ends_stage(self, step: int) -> bool:
        return any(step == stage.end for stage in self.stages)
