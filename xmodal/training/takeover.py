"""A run that goes on from the weights of another one, as population-based training has it."""

import json
import shutil
from pathlib import Path

from xmodal.data.manifest import write_atomically
from xmodal.errors import UserError
from xmodal.recipe import Recipe, differences, load_recipe
from xmodal.training.run import Run, read_state
from xmodal.training.wholeness import fault_of

LINEAGE = "lineage.jsonl"  # in a run folder: whose weights it took over, a line each time


def take_over(run: Run, donor: Run, recipe: Recipe) -> int:
    """Have a run go on by `recipe` from the newest whole checkpoint of `donor`; return its step.

    Weights, optimiser and position in the data are the donor's from there on; the run's own
    checkpoints are dropped, and lineage.jsonl says so. The donor may be training, the run may not.
    Raises `UserError` where the donor has no whole checkpoint.
    """
    newest = _copy_newest(donor, run)
    step = read_state(newest)["step"]
    line = {
        "step": step,
        "weights": str(donor.path),
        "changed": differences(load_recipe(run.path), recipe),
    }
    with (run.path / LINEAGE).open("a") as file:
        file.write(json.dumps(line) + "\n")
    shutil.rmtree(run.checkpoint(step), ignore_errors=True)
    newest.rename(run.checkpoint(step))
    write_atomically(run.checkpoints / "latest", run.checkpoint(step).name)
    run.create(recipe)
    for other in run.checkpoints.glob("step-*"):
        if other != run.checkpoint(step):
            shutil.rmtree(other)
    return step


def _copy_newest(donor: Run, run: Run, tries: int = 5) -> Path:
    """Copy a checkpoint to where it is not yet one of the run's, and return where it is."""
    copy = run.checkpoints / "taken.partial"
    for _ in range(tries):
        for folder in donor.finished():
            shutil.rmtree(copy, ignore_errors=True)
            try:
                shutil.copytree(folder, copy)
            except (FileNotFoundError, shutil.Error):
                break  # the donor went on and dropped it: there is a newer one
            if fault_of(copy) is None:
                return copy
    raise UserError(f"{donor.path} has no whole checkpoint to go on from")
