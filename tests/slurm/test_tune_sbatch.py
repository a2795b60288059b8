"""`slurm/tune.sbatch`, on a real Slurm of two nodes."""

import os
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml

from tests.processes import find_process
from tests.services.daemons import until
from tests.services.slurm import Slurm
from tests.slurm.conftest import ROOT
from tests.tuning.sweeps import (
    QUICKSTART,
    asha,
    assert_asha,
    assert_population,
    is_in_the_middle,
    journal,
    lines,
    population,
    told,
    write_space,
)
from xmodal.runs.run import Run, read_state
from xmodal.tuning.journal import Trial

pytestmark = pytest.mark.slurm


class Sweep:
    """A sweep over both nodes, whose log and folder lie in one folder of a test."""

    def __init__(self, slurm: Slurm, folder: Path, words: Sequence[str]) -> None:
        self.slurm, self.folder, self.path = slurm, folder, folder / "sweep"
        self.log, self.begun = folder / "log", time.monotonic()
        given = ["--nodes=2", f"--output={self.log}", f"--job-name={folder}/job"]
        self.number = slurm.submit(*given, "slurm/tune.sbatch", *words, cwd=ROOT)

    def until(self, holds: Callable[[], bool], what: str) -> None:
        until(holds, 600, what, [self.log])

    def kill(self) -> dict[str, Trial]:
        """Kill the command that leads the sweep, -9; return what has become of trials by then."""
        # Others that have these words, such as srun, have not what slurm/ray.sh exports.
        alone = {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}
        find_process("launch/tune.py", SLURM_JOB_ID=self.number, **alone).kill()
        trials = journal(self.path)
        restarted = ("Restarts", "1")
        self.until(lambda: restarted in self.slurm.job(self.number).items(), "the job's restart")
        return trials

    def end(self) -> str:
        """Wait for the end of the job, which was started again once; return what it said."""
        fields = self.slurm.wait(self.number, 900)
        said = self.log.read_text()
        assert (fields["JobState"], fields["Restarts"]) == ("COMPLETED", "1"), said
        assert "best: " in said
        assert (self.path / "best.yaml").is_file()
        return said

    def complaints(self) -> str:
        return "".join(path.read_text() for path in self.folder.glob("job-*.log"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sweep_over_two_nodes_comes_back(
    slurm: Slurm, recipe: Path, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    """Each of its trials' two workers takes a whole node."""
    space = write_space(tmp_path, workers=2, resources={"cpus": 2})
    words = [str(recipe), "--space", str(space), f"--sweep={tmp_path}/sweep"]
    sweep = Sweep(slurm, tmp_path, [*words, "stages.0.length=120 steps"])
    sweep.until(lambda: lines(sweep.path, '"value"') >= 2, "two evaluations")
    slurm.run("scancel", "--signal=USR1", sweep.number)
    said = sweep.end()
    assert "Interrupted; 0 of 2 trials are over" in sweep.complaints()
    trials = journal(sweep.path)
    assert [trial.end for trial in trials.values()] == ["finished", "finished"]
    for name in trials:
        newest = Run(sweep.path / "trials" / name).latest()
        assert newest is not None
        assert (newest.name, read_state(newest)["ranks"]) == ("step-120", 2)
    assert "Traceback" not in said + sweep.complaints()
    figure(told(sweep.path, sweep.begun))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_asha_over_two_nodes_killed_in_the_middle_finds_a_better_recipe(
    slurm: Slurm, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    """As on one machine, but that each of a trial's two workers takes a whole node."""
    space = yaml.safe_load(QUICKSTART.read_text()) | {"resources": {"cpus": 2, "gpus": 0}}
    sweep = Sweep(slurm, tmp_path, asha(tmp_path, write_space(tmp_path, **space)))
    sweep.until(lambda: is_in_the_middle(sweep.path), "some trials")
    before = sweep.kill()
    sweep.end()
    assert_asha(sweep.path, before)
    figure(told(sweep.path, sweep.begun))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_population_over_two_nodes_takes_over_the_best_weights(
    slurm: Slurm, recipe: Path, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    """Each of its two trials has a node, and takes weights from the other's."""
    sweep = Sweep(slurm, tmp_path, population(tmp_path, recipe, cpus=1))
    sweep.until(lambda: lines(sweep.path, '"weights"') >= 1, "an exchange")
    sweep.kill()
    sweep.end()
    assert_population(sweep.path)
    figure(told(sweep.path, sweep.begun))


def test_a_mistake_is_one_line_and_ends_the_job(slurm: Slurm, tmp_path: Path) -> None:
    log = tmp_path / "log"
    given = ["--nodes=2", "--ntasks-per-node=2", "--cpus-per-task=1", f"--output={log}"]
    number = slurm.submit(*given, "slurm/tune.sbatch", "quickstart", cwd=ROOT)
    assert slurm.wait(number, 100)["ExitCode"] == "2:0"
    assert "error: 4 tasks on 2 nodes: --ntasks-per-node is 1, a node's Ray" in log.read_text()


def test_a_port_that_is_taken_brings_the_job_back() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        given = {"SLURM_PROCID": "0", "SLURMD_NODENAME": "n1", "MASTER_PORT": str(port)}
        given |= {"RAY_ADDRESS": f"127.0.0.1:{port}"}
        done = subprocess.run(
            ["bash", "slurm/ray.sh", "true"],
            cwd=ROOT,
            env=os.environ | given,
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert (done.returncode, done.stdout) == (75, "")
    assert done.stderr.strip() == f"error: port {port} of node n1 is taken"
