"""A run's checkpoints in a bucket: sent while training continues, fetched where a disk has none.

What a run needs to resume elsewhere lies there under the names of the run folder. Each rank sends
its share of a checkpoint's files, without waiting for the others, and rank 0 at last `files.json`.
One counts as whole when all that this lists is there, with its checksums once it is fetched.
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
BESIDE = ("tokenizer.json", "data.json", "metrics.jsonl", "results.json", "report/index.html")
_CHUNK = 8 * 2**20  # bytes
_MOST = 16 * 2**20  # bytes that are read of a list of files or a recipe


def open_mirror(
    run: Run, recipe: BaseModel, url: str | None, access: Iterable[StorageConfig]
) -> "Mirror | None":
    """Return the mirror at a URL, if any, once rank 0 has found it to be this recipe's."""
    if url is None:
        return None
    mirror = Mirror(run, recipe, url, access)
    if rank() == 0:
        mirror.check()
    return mirror


class Mirror:
    """The folder of a bucket that a run folder's checkpoints are copied to and come from.

    All ranks call its methods, but for `check`. At most one checkpoint is on its way:
    the next one waits for it.
    """

    def __init__(
        self, run: Run, recipe: BaseModel, url: str, access: Iterable[StorageConfig] = ()
    ) -> None:
        self.run, self.recipe, self.url = run, recipe, url.rstrip("/")
        self.storage = open_storage(url, access)
        self.storage.say = _silent  # what fails in the end is told when the next one is sent
        self._sender = ThreadPoolExecutor(1, "mirror")
        self._sending: tuple[str, Future[None]] | None = None
        self._came = False  # the last one that was sent, in whole

    def check(self) -> None:
        """Raise `UserError` where the bucket's folder is not this recipe's, or is out of reach."""
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
        """Fetch the newest whole checkpoint where it is newer than what the run folder has.

        Its best one comes with it. Return what is to be said. Raises `UserError` where there are
        checkpoints and none is whole, and the run folder has none.
        """
        here = next(map(step_of, self.run.finished()), 0)
        faults: list[str] = []
        for step in self._steps():
            if step <= here:
                break
            fault = self._fetch(step)
            if fault is None:
                lines = [f"warning: {line}: resuming from step-{step}" for line in faults]
                return [*lines, *self._go_on_from(step)]
            faults.append(self._broken(step, fault))
        if faults and not here:
            raise UserError(
                f"no checkpoint in checkpoints.mirror={self.url} is whole ({'; '.join(faults)}): "
                "restore one, or name another"
            )
        return [f"warning: {line}" for line in faults]

    def catch_up(self) -> list[str]:
        """Make the bucket's folder this run's, by its recipe; send the run folder's newest
        checkpoint where the bucket does not have it.
        """
        if rank() == 0:
            self.storage.write(f"{self.url}/{RECIPE}", dump_recipe(self.recipe).encode())
        latest = self.run.latest()
        missing = gather_objects([self._fault(step_of(latest))] if latest and not rank() else [])
        return self.send(latest) if latest and any(missing) else []

    def send(self, folder: Path) -> list[str]:
        """Begin to send a checkpoint, once the one before has come or failed.

        Return what is to be said of that one. What the run folder has no more is deleted then.
        """
        begun = time.perf_counter()
        faults = self._wait()
        waited = time.perf_counter() - begun
        # Nothing is deleted before what comes after it is there.
        kept = self._kept() if self._came else None
        self._sending = folder.name, self._sender.submit(self._send, folder, kept)
        return [*faults, *([f"waited {waited:.0f} s for {self.url}"] if waited > 1 else [])]

    def finish(self) -> list[str]:
        """Wait for all to come; return what is to be said of what has not."""
        faults = self._wait()
        if rank() == 0 and self._came:
            with suppress(UserError):  # the next run deletes it
                self._prune(self._kept())
        return faults

    def _wait(self) -> list[str]:
        """Wait for the checkpoint that is on its way; return why it did not come, if it did not."""
        if self._sending is None:
            return []
        (name, sending), self._sending = self._sending, None
        mine = []
        try:
            sending.result()
        except (UserError, OSError) as error:
            mine.append(f"warning: {name} is not in {self.url} as a whole: {error}")
        faults = gather_objects(mine)[:1]
        self._came = not faults
        return faults

    def _kept(self) -> set[str]:
        return {path.name for path in self.run.finished()}

    def _send(self, folder: Path, kept: set[str] | None) -> None:
        """Send this rank's share of a checkpoint; delete all others but `kept` before."""
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
        """Return what the bucket lacks of a checkpoint."""
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
        """Bring a checkpoint beside its place; return what is wrong with it, if something is."""
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

    def _go_on_from(self, step: int) -> list[str]:
        """Put a checkpoint that was fetched in its place, after all that is to come with it."""
        best = read_state(self._partial(step))["best_step"] or step
        fetched, lines = {best, step}, [f"step-{step} comes from {self.url}"]
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
        """Bring a file where it is to be, whole; one that is not there is left out."""
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
