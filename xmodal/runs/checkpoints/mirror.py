"""Mirror of a run's checkpoints in a bucket: uploaded during training, downloaded to resume.

The bucket holds all files that a run needs to resume elsewhere, under the names of the run folder.
Each rank uploads its share of a checkpoint's files without waiting for the others, and rank 0
uploads `files.json` last. A checkpoint is complete when all files of that list are there; their
checksums are verified after the download.
"""

import shutil
import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import BaseModel

from xmodal.atomic_files import open_itself, write_atomically
from xmodal.data.storage import open_storage
from xmodal.data.storage.config import StorageConfig
from xmodal.distributed.collectives import barrier, gather_objects, rank, world_size
from xmodal.errors import UserError
from xmodal.runs.checkpoints.integrity import CONTENTS, UNREADABLE, read_contents, verify_checkpoint
from xmodal.runs.recipe_file import RECIPE, check_same, dump_recipe, read_recipe_file
from xmodal.runs.run import STEP, Run, read_state, step_of
from xmodal.small_files import read_small

# What goes with every checkpoint, as it is then.
BESIDE = (
    *("tokenizer.json", "data.json", "metrics.jsonl", "results.json", "queries.safetensors"),
    "report/index.html",
)
_CHUNK = 8 * 2**20  # bytes
_MOST = 16 * 2**20  # bytes that are read of a list of files or a recipe


def open_mirror(
    run: Run, recipe: BaseModel, url: str | None, access: Iterable[StorageConfig]
) -> "Mirror | None":
    """Return the mirror at a URL, if any, after rank 0 has checked that it fits the recipe."""
    if url is None:
        return None
    mirror = Mirror(run, recipe, url, access)
    if rank() == 0:
        mirror.check()
    return mirror


class Mirror:
    """Bucket folder to which a run's checkpoints are uploaded.

    All ranks call its methods, except `check`. One checkpoint is uploaded at a time: the next one
    waits for it.
    """

    def __init__(
        self, run: Run, recipe: BaseModel, url: str, access: Iterable[StorageConfig] = ()
    ) -> None:
        self.run, self.recipe, self.url = run, recipe, url.rstrip("/")
        self.storage = open_storage(url, access)
        self.storage.say = _silent  # failures are reported with the next upload
        self._sender = ThreadPoolExecutor(1, "mirror")
        self._sending: tuple[str, Future[None]] | None = None
        self._came = False  # the last one that was sent, in whole

    def check(self) -> None:
        """Raise `UserError` if the folder belongs to another recipe, or cannot be reached."""
        place = f"checkpoints.mirror={self.url}"
        with TemporaryDirectory() as folder:
            try:
                recipe = self.storage.read(f"{self.url}/{RECIPE}", 0, _MOST)
                Path(folder, RECIPE).write_bytes(recipe)
            except FileNotFoundError:
                if self.storage.list(self.url) or self.storage.folders(self.url):
                    raise UserError(f"{place} holds something else; name another") from None
            else:
                check_same(read_recipe_file(folder, type(self.recipe)), self.recipe, place)

    def restore(self) -> list[str]:
        """Download the newest intact checkpoint, and the best one, if newer than the folder's.

        Return lines for the log. Raises `UserError` if there are checkpoints, none is intact, and
        the run folder has none.
        """
        here = next(map(step_of, self.run.finished()), 0)
        faults: list[str] = []
        for step in self._steps():
            if step <= here:
                break
            fault = self._fetch(step)
            if fault is None:
                lines = [f"warning: {line}: resuming from step-{step}" for line in faults]
                return [*lines, *self._resume_from(step)]
            faults.append(self._broken(step, fault))
        if faults and not here:
            raise UserError(
                f"no checkpoint in checkpoints.mirror={self.url} is whole ({'; '.join(faults)}): "
                "restore one, or name another"
            )
        return [f"warning: {line}" for line in faults]

    def catch_up(self) -> list[str]:
        """Write the recipe into the bucket; upload the newest checkpoint if the bucket lacks it."""
        if rank() == 0:
            self.storage.write(f"{self.url}/{RECIPE}", dump_recipe(self.recipe).encode())
        latest = self.run.latest()
        missing = gather_objects([self._fault(step_of(latest))] if latest and not rank() else [])
        return self.send(latest) if latest and any(missing) else []

    def send(self, folder: Path) -> list[str]:
        """Start the upload of a checkpoint, after that of the previous one.

        Return lines for the log on the previous one. Checkpoints that the run folder has deleted
        are deleted from the bucket.
        """
        begun = time.perf_counter()
        faults = self._wait()
        waited = time.perf_counter() - begun
        # Nothing is deleted before what comes after it is there.
        kept = self._kept() if self._came else None
        self._sending = folder.name, self._sender.submit(self._send, folder, kept)
        return [*faults, *([f"waited {waited:.0f} s for {self.url}"] if waited > 1 else [])]

    def finish(self) -> list[str]:
        """Wait for the uploads; return a warning for each failed one."""
        faults = self._wait()
        if rank() == 0 and self._came:
            with suppress(UserError):  # the next run deletes it
                self._prune(self._kept())
        return faults

    def _wait(self) -> list[str]:
        """Wait for the upload in progress; return a warning if it failed."""
        if self._sending is None:
            return []
        (name, sending), self._sending = self._sending, None
        mine = []
        try:
            sending.result()
        except (UserError, OSError) as error:
            mine.append(f"warning: the upload of {name} to {self.url} failed: {error}")
        faults = gather_objects(mine)[:1]
        self._came = not faults
        return faults

    def _kept(self) -> set[str]:
        return {path.name for path in self.run.finished()}

    def _send(self, folder: Path, kept: set[str] | None) -> None:
        """Upload this rank's share of a checkpoint, after deleting all others except `kept`."""
        place = self._place(step_of(folder))
        if rank() == 0:
            if kept is not None:
                self._prune(kept)
            with suppress(FileNotFoundError):  # of a checkpoint of this name that is replaced
                self.storage.remove(f"{place}/{CONTENTS}")
        names = sorted(read_contents(read_small(folder / CONTENTS).decode()))
        for name in names[rank() :: world_size()]:
            self._put(folder / name, f"{place}/{name}")
        if rank() == 0:
            for name in BESIDE:
                if (self.run.path / name).is_file():
                    self._put(self.run.path / name, f"{self.url}/{name}")
            self._put(folder / CONTENTS, f"{place}/{CONTENTS}")

    def _prune(self, kept: set[str]) -> None:
        for name in set(self.storage.folders(f"{self.url}/checkpoints")) - kept:
            place = f"{self.url}/checkpoints/{name}"
            # First what tells that it is whole.
            for file in sorted(self.storage.list(place), key=lambda file: file != CONTENTS):
                self.storage.remove(f"{place}/{file}")

    def _steps(self) -> list[int]:
        """Return the steps of the bucket's checkpoints, newest first, the same on all ranks."""
        names = self.storage.folders(f"{self.url}/checkpoints") if rank() == 0 else []
        steps = (step_of(Path(name)) for name in names if STEP.fullmatch(name))
        return gather_objects(sorted(steps, reverse=True))

    def _fault(self, step: int) -> str | None:
        """Return the fault of a checkpoint in the bucket, if a file is missing or truncated."""
        place = self._place(step)
        try:
            listed = read_contents(self.storage.read(f"{place}/{CONTENTS}", 0, _MOST).decode())
        except FileNotFoundError:
            return f"{CONTENTS} is missing"
        except ValueError:
            return UNREADABLE
        found = self.storage.list(place)
        for name, (size, _) in listed.items():
            if name not in found:
                return f"{name} is missing"
            if found[name] != size:
                return f"{name} has {found[name]:,} bytes of {size:,}"
        return None

    def _fetch(self, step: int) -> str | None:
        """Download a checkpoint to a temporary folder; return its fault, if any."""
        (fault,) = gather_objects([self._fault(step)] if rank() == 0 else [])
        if fault:
            return fault
        place, partial = self._place(step), self._partial(step)
        if rank() == 0:
            self.run.create(self.recipe)
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            self._get(f"{place}/{CONTENTS}", partial / CONTENTS)
        barrier()
        names = sorted(read_contents(read_small(partial / CONTENTS).decode()))
        for name in names[rank() :: world_size()]:
            self._get(f"{place}/{name}", partial / name)
        barrier()
        return verify_checkpoint(partial)

    def _resume_from(self, step: int) -> list[str]:
        """Move a downloaded checkpoint into place, after the files that belong to it."""
        best = read_state(self._partial(step))["best_step"] or step
        fetched, lines = {best, step}, [f"Downloaded checkpoint step-{step} from {self.url}"]
        if best != step and self.run.checkpoint(best).is_dir():
            fetched.remove(best)
        elif best != step and (fault := self._fetch(best)):
            fetched.remove(best)
            lines.append(f"warning: {self._broken(best, fault)}")
        barrier()
        if rank() == 0:
            for name in BESIDE:
                self._get(f"{self.url}/{name}", self.run.path / name)
            for one in sorted(fetched):
                shutil.rmtree(self.run.checkpoint(one), ignore_errors=True)
                self._partial(one).rename(self.run.checkpoint(one))
            write_atomically(self.run.checkpoints / "latest", f"step-{step}")
        barrier()
        return lines

    def _partial(self, step: int) -> Path:
        return self.run.checkpoints / f"step-{step}.partial"

    def _put(self, file: Path, url: str) -> None:
        with file.open("rb") as data, self.storage.create(url) as target:
            shutil.copyfileobj(data, target, _CHUNK)

    def _get(self, url: str, file: Path) -> None:
        """Download a file atomically; skip one that does not exist."""
        part = file.with_name(file.name + ".part")
        with suppress(FileNotFoundError), self.storage.open(url) as data:
            file.parent.mkdir(parents=True, exist_ok=True)
            with open_itself(part, "wb") as target:
                shutil.copyfileobj(data, target, _CHUNK)
            part.replace(file)

    def _place(self, step: int) -> str:
        return f"{self.url}/checkpoints/step-{step}"

    def _broken(self, step: int, fault: str) -> str:
        return f"checkpoint {self._place(step)} is broken ({fault})"


def _silent(line: str) -> None:
    pass
