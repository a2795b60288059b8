"""When things happen in a run, in optimiser steps: stages, evaluations, checkpoints."""

from dataclasses import dataclass

from xmodal.recipe import Recipe
from xmodal.schema import Span
from xmodal.training.config import StageConfig


@dataclass(frozen=True)
class StageSpan:
    """A stage and the steps that it takes: `start` is its first, `end` the one after its last."""

    config: StageConfig
    start: int
    end: int


class Timeline:
    """The steps of a recipe over `epoch_samples` samples an epoch."""

    def __init__(self, recipe: Recipe, epoch_samples: int) -> None:
        self.epoch_samples = epoch_samples
        self._sizes = {"batch_size": recipe.data.batch_size, "epoch_samples": epoch_samples}
        self.stages: list[StageSpan] = []
        start = 0
        for stage in recipe.stages:
            end = start + self.steps(stage.length)
            self.stages.append(StageSpan(stage, start, end))
            start = end
        self.total = start
        self.evaluate_every = self.steps(recipe.evaluation.every, self.total)
        self.checkpoint_every = self.steps(recipe.checkpoints.every, self.total)

    def steps(self, span: Span, stage_steps: int | None = None) -> int:
        """Return a span in steps."""
        return span.steps(stage_steps=stage_steps, **self._sizes)

    def evaluates_after(self, step: int) -> bool:
        """Tell whether `step` completed steps are followed by an evaluation."""
        return step == self.total or (bool(self.evaluate_every) and step % self.evaluate_every == 0)

    def saves_after(self, step: int) -> bool:
        """Tell whether `step` completed steps are followed by a checkpoint."""
        ends = {stage.end for stage in self.stages}
        return step in ends or (bool(self.checkpoint_every) and step % self.checkpoint_every == 0)
