"""Atomic saving of a run's state through DeepSpeed while training continues."""

import json
import shutil
import time
from dataclasses import asdict
from io import BytesIO
from typing import Any

from xmodal.atomic_files import write_atomically
from xmodal.distributed.collectives import barrier, gather_objects, rank, world_size
from xmodal.errors import UserError
from xmodal.runs.checkpoints.integrity import write_contents
from xmodal.runs.checkpoints.writer import OverlappingWriter
from xmodal.runs.progress import Progress
from xmodal.runs.restarts import this_start
from xmodal.runs.run import STATE_FILE, Run


class Saving:
    """Checkpoint that is being saved: weights, optimiser and progress at the time of creation.

    All ranks create and finish it, and may train in between: the folder has a temporary name, is
    renamed when complete, and only then does `latest` point to it.
    """

    def __init__(self, engine: Any, run: Run, progress: Progress) -> None:
        self.run, self.best_step = run, progress.best_step
        self.folder = run.checkpoint(progress.step)
        self.writer: OverlappingWriter = engine.checkpoint_engine
        self._partial = self.folder.with_name(self.folder.name + ".partial")
        self._begun = time.perf_counter()
        if rank() == 0:
            run.check_place()
            shutil.rmtree(self._partial, ignore_errors=True)
            with run.writing(self._partial):
                self._partial.mkdir(parents=True)
        barrier()
        engine.save_checkpoint(str(run.checkpoints), tag=self._partial.name, save_latest=False)
        if rank() == 0:
            state = asdict(progress) | {"ranks": world_size(), "start": this_start()}
            self.writer.write(self._partial / STATE_FILE, BytesIO(json.dumps(state).encode()))
            if run.vocabulary is not None:
                self.writer.write(self._partial / run.tokenizer.name, BytesIO(run.vocabulary))
        self._waited = time.perf_counter() - self._begun

    def is_written(self) -> bool:
        """Return True when this rank's files are written, or have failed."""
        return self.writer.is_done()

    def finish(self) -> str:
        """Wait for all files, move the folder into place, and return a line for the log.

        Raises `UserError` on all ranks if a file cannot be written.
        """
        resumed = time.perf_counter()
        try:
            files, faults = self.writer.wait(), []
        except OSError as error:
            files, faults = [], [str(error)]
        faults = gather_objects(faults)
        if rank() == 0:
            self.run.check_place()
        if faults:
            if rank() == 0:
                shutil.rmtree(self._partial, ignore_errors=True)
            raise UserError(
                f"{self.folder} cannot be written ({faults[0]}); fix that, and rerun the same "
                "command to resume from the last checkpoint"
            )
        with self.run.writing(self.folder):
            size = write_contents(self._partial, files)
            if rank() == 0:
                shutil.rmtree(self.folder, ignore_errors=True)
                self._partial.rename(self.folder)
                write_atomically(self.run.checkpoints / "latest", self.folder.name)
        barrier()
        now = time.perf_counter()
        waited = self._waited + now - resumed
        return (
            f"Saved checkpoint {self.folder.name} ({size / 1e6:,.1f} MB in "
            f"{now - self._begun:.1f} s, of which training waited {waited:.1f} s)"
        )
