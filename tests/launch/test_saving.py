"""Checkpoints that are written while training goes on: whole and of their step, or not there."""

import shutil
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.commands import train
from tests.launch.conftest import STEPS
from tests.launch.test_resume import assert_the_same
from tests.run_folders import AGREE, STEP, kept_checkpoints, note_ids, noted_ids, steps, weights
from xmodal.runs.run import Run

WRITE = "xmodal.runs.checkpoints.writer:_write"
SAVED = 6  # the step of the first checkpoint


def until_noted(folder: Path, saved: int, step: int, path: Path, *_: object) -> None:
    """Wait until all ranks have begun a step; to be called before `WRITE`."""
    if path.parent.name != f"step-{saved}.partial":
        return
    deadline = time.monotonic() + 60
    while step not in noted_ids(folder):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def slow_disk(folder: Path, saved: int, step: int) -> Mapping[str, Any]:
    """A disk on which the checkpoint of the step `saved` is not written before `step` begins."""
    folder.mkdir()
    return {STEP: partial(note_ids, folder), WRITE: partial(until_noted, folder, saved, step)}


def folders(run: Path) -> set[str]:
    """Return the checkpoints, whole or not, that a run folder has."""
    return {name for name in kept_checkpoints(run) if name.startswith("step-")}


def wait_for_nothing(*_: object) -> None:
    """To be called before `AGREE`, so that what is killed has to do with a slow disk."""


@pytest.mark.parametrize(
    ("ranks", "zero"),
    [(1, 0), (2, 2), *(pytest.param(2, zero, marks=pytest.mark.slow) for zero in (0, 1, 3))],
)
def test_training_goes_on_while_it_is_written(
    ranks: int, zero: int, recipe: Path, tmp_path: Path
) -> None:
    given = [recipe, f"training.zero={zero}", "data.val=null", "checkpoints.keep_last=9"]
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert train(*given, f"run={whole}", ranks=ranks).code == 0
    disk = slow_disk(tmp_path / "ids", SAVED, SAVED + 4)
    done = train(*given, f"run={run}", ranks=ranks, before=disk)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    said = next(n for n, line in enumerate(lines) if f"Saved checkpoint step-{SAVED} (" in line)
    begun = next(n for n, line in enumerate(lines) if f"main step {SAVED + 3}/" in line)
    assert said > begun
    assert " s, of which training waited " in lines[said]
    # It is of its step, not of those that were trained while it was written: optimiser and all.
    for other in Run(run).finished()[:-1]:
        shutil.rmtree(other)
    (run / "checkpoints" / "latest").write_text(f"step-{SAVED}")
    again = train(*given, f"run={run}", ranks=ranks)
    assert again.code == 0, again.err
    assert f"main: steps {SAVED + 1} to {STEPS}" in again.out
    for name in ("loss", "grad_norm"):
        assert steps(run, name) == steps(whole, name)
    ours, theirs = weights(run, STEPS, zero), weights(whole, STEPS, zero)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(("ranks", "zero"), [(1, 0), (2, 2)])
def test_killed_while_it_is_written_it_goes_on_from_the_one_before(
    ranks: int, zero: int, recipe: Path, finished: Path, tmp_path: Path
) -> None:
    run, given = tmp_path / "run", (recipe, f"training.zero={zero}")
    disk = slow_disk(tmp_path / "ids", 2 * SAVED, STEPS)
    died = f"{STEP}:{2 * SAVED + 3}"
    before = {**disk, AGREE: wait_for_nothing}
    assert train(*given, f"run={run}", ranks=ranks, before=before, killed_at=died).code == -9
    assert folders(run) == {f"step-{SAVED}", f"step-{2 * SAVED}.partial"}
    done = train(*given, f"run={run}", ranks=ranks)
    assert done.code == 0, done.err
    assert f"main: steps {SAVED + 1} to {STEPS}" in done.out
    if ranks == 1:
        assert_the_same(run, finished)
    else:
        assert steps(run) == pytest.approx(steps(finished), rel=1e-5)


def full(file: str, path: Path, *_: object) -> None:
    """Find the disk full at a file of the second checkpoint; to be called before `WRITE`."""
    if path.parent.name == f"step-{2 * SAVED}.partial" and path.name == file:
        raise OSError(28, "No space left on device", str(path))


@pytest.mark.parametrize(
    ("ranks", "file"),
    [
        (1, "mp_rank_00_model_states.pt"),
        (1, "state.json"),
        (2, "zero_pp_rank_1_mp_rank_00_optim_states.pt"),
    ],
)
def test_a_disk_that_is_full_is_one_line(
    ranks: int, file: str, recipe: Path, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    given = (recipe, f"run={run}", f"training.zero={2 if ranks > 1 else 0}")
    stopped = train(*given, ranks=ranks, before={WRITE: partial(full, file)})
    assert f"{run}/checkpoints/step-{2 * SAVED} cannot be written" in stopped.error
    assert "No space left on device" in stopped.error
    assert folders(run) == {f"step-{SAVED}"}
    done = train(*given, ranks=ranks)
    assert done.code == 0, done.err
    assert list(steps(run)) == list(steps(finished))


def test_what_ends_a_run_leaves_what_was_saved_before(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    before = {**slow_disk(tmp_path / "ids", SAVED, SAVED + 1), AGREE: break_loss}
    stopped = train(recipe, f"run={run}", before=before)
    assert f"loss is nan at step {SAVED + 1} " in stopped.error
    assert Run(run).latest() == Run(run).checkpoint(SAVED)


def break_loss(trainer: Any, losses: dict[str, torch.Tensor], *_: object) -> None:
    if trainer.progress.step == SAVED:
        losses.update({name: loss * torch.nan for name, loss in losses.items()})
