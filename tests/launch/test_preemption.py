"""Runs that are asked to stop, and whose checkpoints are damaged, go on as if nothing had been."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.commands import ROOT, evaluate, free_port, train
from tests.launch.conftest import STEPS
from tests.launch.test_resume import assert_the_same
from tests.run_folders import STEP, kept_checkpoints, steps
from tests.services.daemons import until
from xmodal.runs.run import Run
from xmodal.training.preemption import HEARD


def ask_to_stop(number: signal.Signals, step: int, rank: int, trainer: Any, *_: Any) -> None:
    """Send a rank a signal as it begins a step, twice, as schedulers do."""
    if trainer.progress.step + 1 == step and trainer.environment.rank == rank:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)


LAUNCHERS = {
    "none": "python",
    "deepspeed": f"deepspeed --num_accelerators=2 --log_level=critical --master_port={free_port()}",
    "torchrun": "torchrun --standalone --nproc-per-node=2",
}
INTERRUPTED = f"Interrupted; saved step-8 of {STEPS}. Rerun the same command to resume.\n"


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
    assert stopped.err == INTERRUPTED
    assert max(steps(run)) == 8
    done = train(*given, f"run={run}", ranks=ranks)
    assert done.code == 0, done.err
    assert f"main: steps 9 to {STEPS}" in done.out
    assert_the_same(run, whole, zero)


def interrupt(step: int, signals: Sequence[signal.Signals], trainer: Any, *_: Any) -> None:
    """Do as a keyboard and DeepSpeed's launcher do: signal a rank and its loaders."""
    if trainer.progress.step + 1 == step:
        me = psutil.Process()
        for process, number in product([*me.children(recursive=True), me], signals):
            process.send_signal(number)


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_ctrl_c_saves_too(ranks: int, recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    given = (recipe, f"run={run}", "data.workers=2", "data.val=null")
    before = {STEP: partial(interrupt, 8, [signal.SIGINT, signal.SIGTERM])}
    stopped = train(*given, ranks=ranks, before=before)
    assert stopped.code == 75, stopped
    assert stopped.err == HEARD.decode() + INTERRUPTED
    assert Run(run).latest() == Run(run).checkpoint(8)
    done = train(*given, ranks=ranks)
    assert "main: steps 9 to" in done.out


def test_a_second_ctrl_c_ends_at_once(recipe: Path, tmp_path: Path) -> None:
    before = {STEP: partial(interrupt, 8, [signal.SIGINT, signal.SIGINT])}
    stopped = train(recipe, f"run={tmp_path}/run", before=before)
    assert stopped.code == -signal.SIGINT
    assert not Run(tmp_path / "run").checkpoint(8).exists()


def interrupt_me(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGINT)


def interrupt_unheard(*_: Any) -> None:
    with suppress(KeyboardInterrupt):  # as libraries do that are being imported
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)


@pytest.mark.parametrize(
    ("ranks", "how"),
    [
        (1, interrupt_me),
        (1, interrupt_unheard),
        pytest.param(2, interrupt_me, marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_before_training_is_quiet(
    ranks: int, how: Callable[..., None], recipe: Path, tmp_path: Path
) -> None:
    before = {"xmodal.training.trainer:Trainer.train": how}
    stopped = train(recipe, f"run={tmp_path}/run", ranks=ranks, before=before)
    assert (stopped.code, stopped.err) == (130, "")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_ctrl_c_saves_under_every_launcher(launcher: str, recipe: Path, tmp_path: Path) -> None:
    """At a terminal it reaches every process of the command."""
    run = Run(tmp_path / "run")
    words = [*LAUNCHERS[launcher].split(), str(ROOT / "launch" / "train.py"), str(recipe)]
    words += [f"run={run.path}", "stages.0.length=3000 steps", "data.val=null", "data.workers=1"]
    words += ["checkpoints.every=2000 steps"]
    command = subprocess.Popen(
        [str(Path(sys.executable).with_name(words[0])), *words[1:]],
        env=os.environ
        | {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        until(lambda: len(run.history()) > 5, 120, "steps")
        os.killpg(command.pid, signal.SIGINT)
        said = command.communicate(timeout=60)[1]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(command.pid, signal.SIGKILL)
    assert re.search(r"^Interrupted; saved step-\d+ of 3000\. Rerun the same", said, re.M), said
    assert run.latest()


def test_asked_to_stop_at_its_last_step_it_is_done(recipe: Path, tmp_path: Path) -> None:
    before = {STEP: partial(ask_to_stop, signal.SIGTERM, STEPS, 0)}
    assert train(recipe, f"run={tmp_path}/run", before=before).code == 0
    assert Run(tmp_path / "run").results.is_file()


def test_a_damaged_checkpoint_falls_back_to_the_one_before(
    recipe: Path, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert train(recipe, f"run={run}", killed_at="xmodal.runs.run:Run.log:17").code == -9
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
    assert train(recipe, f"run={run}", killed_at="xmodal.runs.run:Run.log:17").code == -9
    before = Run(run).metrics.read_text()
    for folder in Run(run).checkpoints.glob("step-*"):
        state = folder / "state.json"
        state.write_bytes(os.urandom(state.stat().st_size))
    error = train(recipe, f"run={run}").error
    assert "is whole (step-" in error
    assert "state.json is not what was written" in error
    assert Run(run).metrics.read_text() == before


def test_what_a_kill_left_of_an_old_checkpoint_is_removed_at_the_next_start(
    recipe: Path, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    kept = kept_checkpoints(run)
    left = Run(run).checkpoint(6)  # by the last pruning of this run
    assert left.name not in kept
    left.mkdir()
    (left / "state.json").write_text("{}")
    (run / "checkpoints" / "step-7.partial").mkdir()
    assert train(recipe, f"run={run}").code == 0
    assert kept_checkpoints(run) == kept
