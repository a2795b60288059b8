"""Runs that are asked to stop, and whose checkpoints are damaged, go on as if nothing had been."""

import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.commands import evaluate, train
from tests.launch.conftest import STEPS
from tests.launch.test_resume import assert_the_same
from tests.runs import STEP, steps
from xmodal.training.run import Run


def ask_to_stop(number: signal.Signals, step: int, rank: int, trainer: Any, *_: Any) -> None:
    """Send a rank a signal as it begins a step, twice, as schedulers do."""
    if trainer.progress.step + 1 == step and trainer.environment.rank == rank:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "ranks", "zero"),
    [
        (signal.SIGUSR1, 1, 0),
        (signal.SIGTERM, 2, 2),
        *(pytest.param(signal.SIGTERM, 2, zero, marks=pytest.mark.slow) for zero in (0, 1, 3)),
    ],
)
def test_asked_to_stop_it_saves_and_goes_on(
    number: signal.Signals, ranks: int, zero: int, recipe: Path, finished: Path, tmp_path: Path
) -> None:
    run, whole = tmp_path / "run", finished
    given = (recipe, f"training.zero={zero}")
    if ranks > 1:
        whole = tmp_path / "whole"
        assert train(*given, f"run={whole}", ranks=ranks).code == 0
    # Between two checkpoints; of two ranks the last alone is asked.
    before = {STEP: partial(ask_to_stop, number, 8, ranks - 1)}
    stopped = train(*given, f"run={run}", ranks=ranks, before=before)
    assert stopped.code == 75, stopped
    assert stopped.err == (
        f"Interrupted; saved step-8 of {STEPS}. Rerun the same command to resume.\n"
    )
    assert max(steps(run)) == 8
    done = train(*given, f"run={run}", ranks=ranks)
    assert done.code == 0, done.err
    assert f"main: steps 9 to {STEPS}" in done.out
    assert_the_same(run, whole, zero)


def test_asked_to_stop_at_its_last_step_it_is_done(recipe: Path, tmp_path: Path) -> None:
    before = {STEP: partial(ask_to_stop, signal.SIGTERM, STEPS, 0)}
    assert train(recipe, f"run={tmp_path}/run", before=before).code == 0
    assert Run(tmp_path / "run").results.is_file()


def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    recipe: Path, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert train(recipe, f"run={run}", killed_at="xmodal.training.run:Run.log:17").code == -9
    newest = Run(run).latest()
    assert newest
    weights = newest / "mp_rank_00_model_states.pt"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert f"checkpoint {newest} is broken (mp_rank_00_model_states.pt has" in evaluate(run).error
    done = train(recipe, f"run={run}")
    assert done.code == 0, done.err
    assert f"warning: checkpoint {newest} is broken (mp_rank_00_model_states.pt has" in done.out
    assert_the_same(run, finished)


def test_without_a_whole_checkpoint_it_does_not_begin_again(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train(recipe, f"run={run}", killed_at="xmodal.training.run:Run.log:17").code == -9
    before = Run(run).metrics.read_text()
    for folder in Run(run).checkpoints.glob("step-*"):
        state = folder / "state.json"
        state.write_bytes(os.urandom(state.stat().st_size))
    error = train(recipe, f"run={run}").error
    assert "is whole (step-" in error
    assert "state.json is not what was written" in error
    assert Run(run).metrics.read_text() == before
