"""Run folder: all files of a run.

`recipe.yaml`, `tokenizer.json`, `metrics.jsonl` (one line per logged step or evaluation),
`tensorboard/`, `checkpoints/step-N/` and `latest`, `results.json`, `queries.safetensors`,
`report/index.html`, `profile/`.
"""

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from xmodal.atomic_files import open_itself, write_atomically
from xmodal.errors import UserError
from xmodal.runs.metrics_file import read_metrics
from xmodal.runs.recipe_file import RECIPE, check_same, dump_recipe, read_recipe_file
from xmodal.small_files import read_small

STEP = re.compile(r"step-(0|[1-9][0-9]{0,17})")
# What a run folder holds, and whether that is a folder.
_PARTS = {
    "recipe.yaml": False,
    "lock": False,
    "tokenizer.json": False,
    "text_encoder": True,
    "data.json": False,
    "plugins.json": False,
    "metrics.jsonl": False,
    "tensorboard": True,
    "checkpoints": True,
    "checkpoints/latest": False,
    "results.json": False,
    "queries.safetensors": False,
    "evaluations": True,
    "report": True,
    "report/index.html": False,
    "lineage.jsonl": False,
    "profile": True,
}
LOCK = "lock"  # in a folder that is held: by whom
STATE_FILE = "state.json"  # in a checkpoint: how far it is, readable without torch


class Run:
    """Run folder of one recipe."""

    def __init__(self, path: str | Path) -> None:
        self.given, self.path = path, Path(path)
        self.recipe = self.path / RECIPE
        self.metrics = self.path / "metrics.jsonl"
        self.tokenizer = self.path / "tokenizer.json"
        self.tensorboard = self.path / "tensorboard"
        self.checkpoints = self.path / "checkpoints"
        self.results = self.path / "results.json"
        self.vocabulary: bytes | None = None  # tokenizer.json as the run uses it, for checkpoints
        self._folder: int | None = None  # open, once the run is under way

    def check(self, recipe: BaseModel, *, has_mirror: bool = False) -> None:
        """Raise `UserError` if the folder belongs to another recipe or is no run folder."""
        if "://" in str(self.given):
            raise UserError(f"run={self.given}: a run folder lies on a disk; name a folder")
        check_path(self.path, f"run={self.path}")
        if not self.path.exists():
            return
        for name, is_folder in _PARTS.items():
            _check_part(self.path / name, is_folder)
        if not self.recipe.is_file():
            if not is_bare(self.path):
                raise UserError(
                    f"run={self.path} is no run folder: it has no recipe.yaml; "
                    "name another folder, or restore the file"
                )
            return
        begun = read_recipe_file(self.path, type(recipe))
        # Of a start that failed nothing depends on the recipe: another one may follow.
        if self.has_begun or has_mirror:
            check_same(begun, recipe, f"run={self.path}")
        # It is made before recipe.yaml is.
        if not self.checkpoints.exists() and not has_mirror:
            raise UserError(
                f"run={self.path} has lost its folder {self.checkpoints.name}; restore it, or name "
                "another run"
            )

    @property
    def has_begun(self) -> bool:
        """True once a step has been logged or saved."""
        logged = self.metrics.is_file() and self.metrics.stat().st_size > 0
        return logged or bool(self._steps())

    def create(self, recipe: BaseModel) -> None:
        """Create the folder and save the resolved recipe in it."""
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        write_atomically(self.recipe, dump_recipe(recipe))

    def pin(self) -> None:
        """Record the identity of the folder, so that `check_place` detects its renaming."""
        self._folder = os.open(self.path, os.O_RDONLY)  # open, so that its number stays its own

    def check_place(self) -> None:
        """Raise `UserError` if the folder was renamed or removed since it was pinned."""
        if self._folder is None:
            return
        try:
            same = os.path.samestat(os.fstat(self._folder), self.path.stat())
        except OSError:
            same = False
        if not same:
            raise UserError(
                f"run={self.path} was renamed or removed during training; move it back, and rerun "
                "the same command to resume from its last checkpoint"
            )

    @contextmanager
    def writing(self, path: Path) -> Iterator[None]:
        """Convert an `OSError` of the block into a `UserError` that names the file or folder."""
        self.check_place()
        try:
            yield
        except OSError as error:
            self.check_place()
            raise UserError(
                f"{path} cannot be written: {error.strerror or error}; fix that, and rerun the "
                "same command to resume"
            ) from error

    def latest(self) -> Path | None:
        """Return the newest checkpoint's folder, if there is one."""
        pointer = self.checkpoints / "latest"
        name = (
            read_small(pointer, 1_000).decode(errors="replace").strip() if pointer.is_file() else ""
        )
        return self.checkpoints / name if STEP.fullmatch(name) else None

    def finished(self) -> list[Path]:
        """Return the checkpoints that a run may resume from, newest first.

        Checkpoints newer than `latest` are ignored: the run was killed before it finished them.
        Without `latest`, all count.
        """
        latest = self.latest()
        last = step_of(latest) if latest else None
        steps = [step for step in self._steps() if last is None or step <= last]
        return [self.checkpoint(step) for step in reversed(steps)]

    def find_checkpoint(self, name: str) -> Path:
        """Return the folder of the checkpoint called `latest`, `best` or `step-N`.

        Raises `UserError` if there is none.
        """
        # Without the file `latest`, the newest is.
        latest = self.latest() or next(iter(self.finished()), None)
        if latest is None:
            raise UserError(
                f"{self.path} has no checkpoint yet; train it first, until checkpoints.every"
            )
        if name == "best":
            name = f"step-{read_state(latest)['best_step'] or latest.name.removeprefix('step-')}"
        folder = latest if name == "latest" else self.checkpoints / name
        if (folder != latest and not STEP.fullmatch(name)) or not folder.is_dir():
            kept = ", ".join(f"step-{step}" for step in self._steps()) or "none"
            wanted = folder.name if name == "latest" else name
            raise UserError(f"{self.path} keeps no checkpoint {wanted}; there are: {kept}")
        return folder

    def checkpoint(self, step: int) -> Path:
        """Return the folder of a step's checkpoint."""
        return self.checkpoints / f"step-{step}"

    def prune(self, keep_last: int, best_step: int | None) -> None:
        """Delete all checkpoints but the newest `keep_last` and the best, and unfinished ones."""
        for partial in filter(Path.is_dir, self.checkpoints.glob("*.partial")):
            shutil.rmtree(partial)
        latest = self.latest()
        # One that is newer than `latest` was left by a run that was killed before it was whole.
        steps = [step for step in self._steps() if latest and step <= step_of(latest)]
        for step in steps[:-keep_last]:
            if step != best_step:
                # Renamed first, so that a kill leaves no incomplete checkpoint under its name.
                doomed = self.checkpoint(step).with_suffix(".partial")
                self.checkpoint(step).rename(doomed)
                shutil.rmtree(doomed)

    def tidy(self, keep_last: int, best_step: int | None) -> None:
        """Delete unfinished files and checkpoints of a killed run, and those it had not pruned."""
        for name in _PARTS:
            path = self.path / name
            part = path.with_name(f"{path.name}.part")
            if part.is_file():
                part.unlink()
        self.prune(keep_last, best_step)

    def log(self, values: Mapping[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        with self.writing(self.metrics), open_itself(self.metrics, "a") as file:
            file.write(json.dumps(values) + "\n")

    def history(self) -> list[dict[str, Any]]:
        """Return the measurements in metrics.jsonl, without an incomplete last line."""
        return read_metrics(self.metrics)[0]

    def _steps(self) -> list[int]:
        """Return the steps of complete checkpoints, in order."""
        found = self.checkpoints.glob("step-*")
        return sorted(step_of(one) for one in found if STEP.fullmatch(one.name) and one.is_dir())


def check_path(path: Path, name: str) -> None:
    """Raise `UserError`, with the name that the user gave, if a path cannot be a run folder."""
    if any(character in str(path) for character in "*?["):
        raise UserError(
            f"{name}: DeepSpeed finds no checkpoints below a path with *, ? or [ in it; name "
            "another folder"
        )
    nearest = next(parent for parent in (path, *path.parents) if os.path.lexists(parent))
    if not nearest.is_dir():
        what = "a file" if nearest.exists() else "a link to nothing"
        where = "is" if nearest == path else f"lies below {nearest},"
        raise UserError(f"{name} {where} {what}; name a folder")


def _check_part(path: Path, is_folder: bool) -> None:
    right = path.is_dir() if is_folder else path.is_file()
    if os.path.lexists(path) and not right:
        kind = "folder" if is_folder else "file"
        raise UserError(
            f"{path} is not a {kind}, as it is in a run folder; move it away, or name another "
            "folder with run=DIR"
        )


def step_of(checkpoint: Path) -> int:
    """Return the step in the name of a checkpoint's folder."""
    return int(checkpoint.name.removeprefix("step-"))


def read_state(folder: Path) -> dict[str, Any]:
    """Return the `state` of a checkpoint; raises `UserError` if it is missing."""
    fault = state_fault(folder)
    if fault:
        raise UserError(f"checkpoint {folder} is not whole: {fault}")
    state: dict[str, Any] = json.loads(read_small(folder / STATE_FILE))
    return state


def state_fault(folder: Path) -> str | None:
    """Return the fault of a checkpoint's state; None if it is valid and of the folder's step.

    Its numbers name folders and decide where a run resumes.
    """
    file, named = folder / STATE_FILE, STEP.match(folder.name)
    if not file.is_file():
        return f"{STATE_FILE} is missing"
    try:
        state = json.loads(read_small(file))
        numbers = [state["step"], state.get("ranks", 1), state.get("best_step") or 0]
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return f"{STATE_FILE} cannot be read"
    if not all(type(number) is int and number >= 0 for number in numbers):
        return f"{STATE_FILE} cannot be read"
    if named and named[0] != f"step-{state['step']}":
        return f"{STATE_FILE} is one of step {state['step']}"
    return None


def is_bare(folder: Path) -> bool:
    """Return True if a folder is empty except for a lock file."""
    return all(path.name == LOCK for path in folder.iterdir())
