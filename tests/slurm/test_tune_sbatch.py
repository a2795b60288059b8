"""`slurm/tune.sbatch`, on a real Slurm of two nodes."""

import os
import socket
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.services.daemons import until
from tests.services.slurm import Slurm
from tests.slurm.conftest import ROOT
from xmodal.training.run import Run, read_state
from xmodal.tuning.journal import Journal

pytestmark = pytest.mark.slurm


def write_space(folder: Path) -> Path:
    """Two trials of two workers, each of which takes a whole node of the two."""
    values = {
        "metric": "rsum",
        "trials": 2,
        "workers": 2,
        "resources": {"cpus": 2},
        "space": {"stages.0.optimizer.lr": {"log_uniform": [1e-4, 1e-2]}},
    }
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sweep_over_two_nodes_comes_back(slurm: Slurm, recipe: Path, tmp_path: Path) -> None:
    sweep, log = tmp_path / "sweep", tmp_path / "log"
    given = ["--nodes=2", f"--output={log}", f"--job-name={tmp_path}/job", "slurm/tune.sbatch"]
    words = [str(recipe), "--space", str(write_space(tmp_path)), f"--sweep={sweep}"]
    words += ["stages.0.length=120 steps"]
    number = slurm.submit(*given, *words, cwd=ROOT)
    journal = sweep / "journal.jsonl"

    def measured() -> int:
        return journal.read_text().count('"value"') if journal.exists() else 0

    until(lambda: measured() >= 2, 300, "two evaluations", [log])
    slurm.run("scancel", "--signal=USR1", number)
    fields = slurm.wait(number, 500)
    said = log.read_text()
    assert (fields["JobState"], fields["Restarts"]) == ("COMPLETED", "1"), said
    complaints = "".join(path.read_text() for path in tmp_path.glob("job-*.log"))
    assert "asked to stop by a signal: 0 of 2 trials are over" in complaints
    trials = Journal(journal).trials
    assert [trial.end for trial in trials.values()] == ["finished", "finished"]
    for name in trials:
        newest = Run(sweep / "trials" / name).latest()
        assert newest is not None
        assert (newest.name, read_state(newest)["ranks"]) == ("step-120", 2)
    assert "best: " in said
    assert (sweep / "best.yaml").is_file()
    assert "Traceback" not in said + complaints


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
    assert done.stderr.strip() == f"error: port {port} of node n1 is taken:"
