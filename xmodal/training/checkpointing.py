"""Checkpoints of a run in training: written while it continues, mirrored, pruned."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from xmodal.activity import activity
from xmodal.runs.checkpoints.mirror import Mirror
from xmodal.runs.checkpoints.saving import Saving
from xmodal.runs.progress import Progress
from xmodal.runs.run import Run
from xmodal.training.config import CheckpointConfig
from xmodal.training.log import TrainingLog


class Checkpointing:
    """Writes one checkpoint at a time, while training continues; all ranks call all methods.

    `within` returns the context of a wait for files, given what is waited for.
    """

    def __init__(
        self,
        config: CheckpointConfig,
        run: Run,
        progress: Progress,
        log: TrainingLog,
        mirror: Mirror | None,
        *,
        prunes: bool,
        within: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self.config, self.run, self.progress, self.log = config, run, progress, log
        self.mirror, self.prunes, self.within = mirror, prunes, within
        self.saving: Saving | None = None  # the checkpoint that is being written

    def prune(self, best_step: int | None) -> None:
        """Remove the checkpoints that are neither among the newest ones nor the best."""
        if self.prunes:
            self.run.prune(self.config.keep_last, best_step)

    def save(self, engine: Any) -> None:
        """Start writing a checkpoint, once the one before is complete."""
        self.finish_saving()
        self.saving = Saving(engine, self.run, self.progress)

    def is_written(self) -> bool:
        """Return whether this rank has written its files of a checkpoint in progress."""
        return self.saving is not None and self.saving.is_written()

    def finish_saving(self) -> None:
        """Wait until the checkpoint in progress, if there is one, is complete and in its place."""
        if self.saving is None:
            return
        saving, self.saving = self.saving, None
        name = saving.folder.name
        with activity(f"saving {name}"), self.within(f"all files of {name}"):
            self.log.say(saving.finish())
        if self.mirror:
            self.log.say_all(self.mirror.send(saving.folder))
        self.prune(saving.best_step)

    def finish(self) -> None:
        """Wait for the checkpoint in progress and for the mirror."""
        self.finish_saving()
        if self.mirror:
            self.log.say_all(self.mirror.finish())
