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

LINEAGE = "lineage.jsonl"  # in a run folder: whose weights it took over, a line each time


def clone_checkpoint(run: Run, donor: Run, wanted: int, recipe: BaseModel) -> int:
    """Have a run continue by `recipe` from a whole checkpoint of `donor`; return its step.

    It is the step `wanted` or the nearest that the donor has.
    Weights, optimiser and position in the data are the donor's from there on; the run's own
    checkpoints are dropped, and lineage.jsonl says so. What the run has taken over already, it does
    not take over again. The donor may be training, the run may not. Raises `UserError` where the
    donor has no whole checkpoint.
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
    """Return whose weights a run took over, at which steps: the lines of lineage.jsonl."""
    file = run.path / LINEAGE
    if not file.is_file():
        return []
    try:
        return [json.loads(line) for line in read_small(file).splitlines()]
    except ValueError:
        raise UserError(
            f"{file} is damaged: whose weights the run has is not known; restore it, "
            "or name another folder with --sweep DIR"
        ) from None


def _copy_of(donor: Run, wanted: int, run: Run, tries: int = 5) -> Path:
    """Copy a checkpoint to where it is not yet one of the run's, and return where it is."""
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
    raise UserError(f"{donor.path} has no whole checkpoint to continue from; restore one")
