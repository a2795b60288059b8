"""Clone of another run's checkpoint, from which population-based training continues."""

import json
import shutil
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from xmodal.atomic_files import open_itself, write_atomically
from xmodal.components.differences import differences
from xmodal.errors import UserError
from xmodal.runs.checkpoints.integrity import verify_checkpoint
from xmodal.runs.recipe_file import read_recipe_file
from xmodal.runs.run import Run, read_state, step_of
from xmodal.small_files import read_small

LINEAGE = "lineage.jsonl"  # in a run folder: one line per clone, with its donor


def clone_checkpoint(run: Run, donor: Run, wanted: int, recipe: BaseModel) -> int:
    """Copy an intact checkpoint of `donor` into a run, with `recipe`, and return its step.

    The step is `wanted` or the nearest one that the donor has. The run continues with the donor's
    weights, optimiser and position in the data; its own checkpoints are deleted, and lineage.jsonl
    records that. A checkpoint that the run has cloned already is not cloned again. The donor may
    be training, the run must not. Raises `UserError` if the donor has no intact checkpoint.
    """
    before = lineage(run)
    if before and (before[-1]["weights"], before[-1]["wanted"]) == (str(donor.path), wanted):
        return int(before[-1]["step"])
    newest = _copy_of(donor, wanted, run)
    step: int = read_state(newest)["step"]
    line = {
        "step": step,
        "weights": str(donor.path),
        "wanted": wanted,
        "changed": differences(read_recipe_file(run.path, type(recipe)), recipe),
    }
    shutil.rmtree(run.checkpoint(step), ignore_errors=True)
    newest.rename(run.checkpoint(step))
    write_atomically(run.checkpoints / "latest", run.checkpoint(step).name)
    run.create(recipe)
    for other in run.checkpoints.glob("step-*"):
        if other != run.checkpoint(step):
            shutil.rmtree(other)
    with open_itself(run.path / LINEAGE, "a") as file:
        file.write(json.dumps(line) + "\n")
    return step


def lineage(run: Run) -> list[dict[str, Any]]:
    """Return the donors and steps of a run's clones: the lines of lineage.jsonl."""
    file = run.path / LINEAGE
    if not file.is_file():
        return []
    try:
        return [json.loads(line) for line in read_small(file).splitlines()]
    except ValueError:
        raise UserError(
            f"{file} is damaged, so the origin of the run's weights is unknown; restore it, "
            "or name another folder with --sweep DIR"
        ) from None


def _copy_of(donor: Run, wanted: int, run: Run, tries: int = 5) -> Path:
    """Copy a checkpoint to a temporary folder of the run, and return that."""
    copy = run.checkpoints / "taken.partial"
    for _ in range(tries):
        for folder in sorted(donor.finished(), key=lambda one: abs(step_of(one) - wanted)):
            shutil.rmtree(copy, ignore_errors=True)
            try:
                shutil.copytree(folder, copy)
            except (FileNotFoundError, shutil.Error):
                break  # the donor went on and dropped it: there are others
            if verify_checkpoint(copy) is None and read_state(copy)["step"] == step_of(folder):
                return copy
    raise UserError(f"{donor.path} has no intact checkpoint to continue from; restore one")
