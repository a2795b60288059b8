"""Sweeps by launch/tune.py: real trials of distributed runs under a Ray of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.commands import run
from tests.run_folders import kept_checkpoints
from tests.tuning.conftest import command, environment, tune
from tests.tuning.sweeps import (
    LR,
    asha,
    assert_asha,
    assert_population,
    assert_whole,
    is_in_the_middle,
    journal,
    lines,
    population,
    rows,
    told,
)
from xmodal.assembly.recipe import load_recipe, read_recipe
from xmodal.runs.run import Run, read_state

RAY = ("raylet", "gcs_server", "ray::")


OPEN = """
import json, os, psutil
from pathlib import Path
from xmodal.tuning.cluster import running_ray
import ray
before = set(Path("/tmp").glob("ray-*"))
with running_ray():
    @ray.remote
    def number(): return 3
    assert ray.get(number.remote()) == 3
    me = psutil.Process()
    processes = [me, *me.children(recursive=True)]
    heard = [c.laddr.ip for p in processes for c in p.net_connections() if c.status == "LISTEN"]
    (folder,) = set(Path("/tmp").glob("ray-*")) - before
    token = os.environ.get("RAY_AUTH_TOKEN", "none")
    print(json.dumps({
        "heard": sorted(set(heard)),
        "mode": oct(folder.stat().st_mode),
        "said": sum(token in " ".join(p.cmdline()) for p in processes),
        "address": ray.get_runtime_context().gcs_address,
    }), flush=True)
    input()
"""
ENTER = "import ray, sys; ray._raylet.GcsClient(address=sys.argv[1])"


@pytest.mark.slow
def test_nobody_else_enters_the_ray_of_a_sweep(tmp_path: Path) -> None:
    others = {key: value for key, value in environment().items() if not key.startswith("RAY_")}
    others["HOME"] = str(tmp_path)
    pipe = subprocess.PIPE
    words = [sys.executable, "-c", OPEN]
    with subprocess.Popen(words, env=others, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin
        assert process.stdout
        told = json.loads(process.stdout.readline())
        entering = [sys.executable, "-c", ENTER, told["address"]]
        variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
        given = [{"RAY_AUTH_MODE": "disabled"}, variables]
        done = [
            subprocess.run(entering, env=others | one, capture_output=True, text=True)
            for one in given
        ]
        process.communicate("\n")
    for one in done:
        assert "AuthenticationError" in one.stderr, one
    assert set(told["heard"]) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert told["mode"] == "0o40700"
    assert told["said"] == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_what_a_sweep_leaves_and_starts_knows_no_secret(
    recipe: Path,
    space: Callable[..., Path],
    tmp_path: Path,
    start: Callable[..., "subprocess.Popen[str]"],
) -> None:
    (tmp_path / "secret").write_text("never-to-be-seen")
    sweep = tmp_path / "sweep"
    words = [recipe, "--space", space(workers=2, resources={"cpus": 0.5}, trials=1)]
    words += ["--sweep", sweep, "stages.0.length=12 steps"]
    words += [f"data.s3.secret.file={tmp_path}/secret"]
    process, seen = start(*words), set[str]()
    while process.poll() is None:
        with suppress(psutil.Error, OSError):
            seen |= {" ".join(one.cmdline()) for one in below(process)}
            seen |= {
                f"{oct(path.parents[1].stat().st_mode)} {path.read_bytes()!r}"
                for path in (sweep / "ray").rglob("tuner.pkl")
            }
        time.sleep(0.2)
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert any(one.startswith("0o40700 ") for one in seen)
    kept = [str(path.read_bytes()) for path in sweep.rglob("*") if path.is_file()]
    assert not any("never-to-be-seen" in text for text in [*seen, *kept, out, err])
    trial = load_recipe(sweep / "trials" / "000")
    assert trial.data.s3.secret.read("data.s3.secret") == "never-to-be-seen"


@pytest.mark.parametrize("number", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_sweep_of_trials_of_two_workers(
    number: int, recipe: Path, space: Callable[..., Path], tmp_path: Path
) -> None:
    sweep = tmp_path / "sweep"
    keys = {"workers": 2, "resources": {"cpus": 0.5}, "trials": number}
    words = [recipe, "--space", space(**keys), "--sweep", sweep, "stages.0.length=12 steps"]
    done = run("tune.py", *words, seconds=280)
    assert done.code == 0, done.err
    assert not done.err
    trials = journal(sweep)
    assert [trial.end for trial in trials.values()] == ["finished"] * number
    assert trials["000"].values == {LR: 3e-4}
    for trial in trials.values():
        assert [one.step for one in trial.measured] == [6, 12]
        assert_whole(sweep, trial)
        assert read_state(Run(sweep / "trials" / trial.name).checkpoint(12))["ranks"] == 2
    best = next(iter(rows(sweep).values()))
    assert f"trial {best['trial']}: finished" in done.out
    found = read_recipe(str(sweep / "best.yaml"), [], recipe.parent)
    assert found.stages[0].optimizer.lr == trials[best["trial"]].values[LR]
    assert not (sweep / "ray").exists()
    # There is nothing left to do, which needs no Ray.
    again = run("tune.py", *words)
    assert (again.code, "trial 000: " in again.out) == (0, False)


def until(holds: Callable[[], bool], process: "subprocess.Popen[str]", seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture
def start() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start launch/tune.py; what is left of it at the test's end is killed."""
    started = []

    def begin(*words: object) -> "subprocess.Popen[str]":
        pipe = subprocess.PIPE
        started.append(
            subprocess.Popen(
                command(*words), env=environment(), stdout=pipe, stderr=pipe, text=True
            )
        )
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()


def below(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_asha_killed_in_the_middle_finds_a_better_recipe(
    start: Callable[..., "subprocess.Popen[str]"], tmp_path: Path, figure: Callable[[str], None]
) -> None:
    words, sweep = asha(tmp_path), tmp_path / "sweep"
    begun = time.monotonic()
    process = start(*words)
    until(lambda: is_in_the_middle(sweep), process, 900)
    process.kill()
    process.communicate()
    before = journal(sweep)
    done = tune(*words, seconds=1200)
    assert done.code == 0, done.err
    assert_asha(sweep, before)
    figure(told(sweep, begun))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_population_takes_over_the_best_weights(
    recipe: Path,
    tmp_path: Path,
    start: Callable[..., "subprocess.Popen[str]"],
    figure: Callable[[str], None],
) -> None:
    words, sweep = population(tmp_path, recipe, cpus=0.5), tmp_path / "sweep"
    begun = time.monotonic()
    process = start(*words)
    # Killed after an exchange, it goes on with what trials have become.
    until(lambda: lines(sweep, '"weights"') >= 1, process, 400)
    process.kill()
    process.communicate()
    done = tune(*words, seconds=400)
    assert done.code == 0, done.err
    assert_population(sweep)
    figure(told(sweep, begun))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_trials_that_fail_are_told_and_those_that_crash_go_on(
    recipe: Path,
    space: Callable[..., Path],
    tmp_path: Path,
    start: Callable[..., "subprocess.Popen[str]"],
) -> None:
    sweep = tmp_path / "sweep"
    # Each value alone goes with the recipe; 48 samples in 32 lanes do not.
    keys = {"data.batch_size": {"choice": [32, 48]}, "data.lanes": {"choice": [32, 16]}}
    file = space(trials=4, seed=1, space=keys | {LR: {"log_uniform": [1e-4, 1e-2]}})
    words = [recipe, "--space", file, "--sweep", sweep, "stages.0.length=36 steps"]
    process = start(*words)
    until(lambda: lines(sweep, '"value"') >= 2, process, 300)
    workers = [one for one in below(process) if "RayTrainWorker" in " ".join(one.cmdline())]
    assert workers
    for worker in workers:
        worker.kill()
    out, error = process.communicate(timeout=500)
    assert process.returncode == 0, error
    trials = journal(sweep)
    failed = [trial for trial in trials.values() if trial.end == "failed"]
    assert failed
    for trial in trials.values():
        wrong = (trial.values.get("data.batch_size"), trial.values.get("data.lanes")) == (48, 32)
        assert trial.end == ("failed" if wrong else "finished"), out
    assert "lanes (32) must divide batch_size (48)" in failed[0].line
    assert "Traceback" not in out + error


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_where_every_trial_fails_it_ends_with_the_cause(
    recipe: Path, space: Callable[..., Path], tmp_path: Path
) -> None:
    sweep = tmp_path / "sweep"
    wrong = "stages.0.requires={loss/of_nothing: {at_least: 1}}"
    done = tune(recipe, "--space", space(workers=2), "--sweep", sweep, wrong)
    assert done.code == 2
    (line,) = done.err.splitlines()
    assert line.startswith(f"error: no trial of {sweep} was measured: stage main requires")
    assert {trial.end for trial in journal(sweep).values()} == {"failed"}
    assert len(rows(sweep)) == 2


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_asked_to_stop_it_goes_on_later(
    number: int,
    recipe: Path,
    space: Callable[..., Path],
    tmp_path: Path,
    start: Callable[..., "subprocess.Popen[str]"],
) -> None:
    sweep = tmp_path / "sweep"
    words = [recipe, "--space", space(), "--sweep", sweep, "stages.0.length=600 steps"]
    process = start(*words)
    until(lambda: lines(sweep, '"value"') >= 1, process, 300)
    ray = [one for one in below(process) if any(mark in " ".join(one.cmdline()) for mark in RAY)]
    process.send_signal(number)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 75, error
    assert error == "Interrupted; 0 of 2 trials are over. Rerun the same command to resume.\n"
    psutil.wait_procs(ray, timeout=30)
    assert not [one for one in ray if one.is_running()]
    assert kept_checkpoints(sweep / "trials" / "000")
    assert journal(sweep)["000"].end is None


@pytest.mark.slow
def test_what_ray_has_no_room_for_is_one_line(
    recipe: Path, space: Callable[..., Path], tmp_path: Path
) -> None:
    cpus = os.cpu_count() or 1
    words = [recipe, "--sweep", tmp_path / "sweep", "--space"]
    assert f"room for {cpus} such workers" in tune(*words, space(workers=32)).error
    population = space(trials=cpus + 1, scheduler="pbt")
    words[2] = tmp_path / "other"
    assert f"have room for {cpus}: ask" in tune(*words, population).error
