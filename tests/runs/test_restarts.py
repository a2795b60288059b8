"""A job that Slurm starts again and again to no effect comes to an end."""

import json
from pathlib import Path

import pytest

from xmodal.atomic_files import write_atomically
from xmodal.errors import UserError
from xmodal.runs.restarts import check_restarts
from xmodal.runs.run import STATE_FILE, Run


def run_with(folder: Path, state: str) -> Run:
    """Return a run whose newest checkpoint has this state."""
    run = Run(folder)
    run.checkpoint(8).mkdir(parents=True)
    write_atomically(run.checkpoint(8) / STATE_FILE, state)
    write_atomically(run.checkpoints / "latest", "step-8")
    return run


def fails(run: Run, restarts: int, job: str = "7") -> bool:
    variables = {"SLURM_JOB_ID": job, "SLURM_RESTART_COUNT": str(restarts)}
    try:
        check_restarts(run, 3, variables)
    except UserError:
        return True
    return False


def test_without_a_checkpoint_all_restarts_count(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert [fails(run, restarts) for restarts in (0, 3, 4)] == [False, False, True]
    check_restarts(run, 3, {})  # no job of Slurm's
    with pytest.raises(UserError, match=r"^job 7 was started again 2 times without a checkpoint"):
        check_restarts(run, 2, {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": "3"})


def test_a_checkpoint_of_the_job_begins_the_count_anew(tmp_path: Path) -> None:
    run = run_with(tmp_path, json.dumps({"step": 8, "start": {"job": "7", "restart": 2}}))
    assert [fails(run, restarts) for restarts in (2, 5, 6)] == [False, False, True]
    # Submitted again, it is another job.
    assert [fails(run, restarts, job="9") for restarts in (0, 3, 4)] == [False, False, True]


@pytest.mark.parametrize("state", ["{}", "half of i"])
def test_a_checkpoint_that_says_nothing_begins_no_count(tmp_path: Path, state: str) -> None:
    run = run_with(tmp_path, state)
    assert [fails(run, restarts) for restarts in (3, 4)] == [False, True]
