"""`sbatch slurm/train.sbatch`, on a real Slurm of two nodes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.services.slurm import Slurm

pytestmark = pytest.mark.slurm
ROOT = Path(__file__).parents[2]

# Stands where launch/train.py does and writes down how it was called.
RECORDER = """
import json, os, sys
names = ("MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS", "SLURM_NTASKS", "SLURM_LOCALID")
call = {name: os.environ[name] for name in names} | {"arguments": sys.argv[1:]}
with open(f"rank-{os.environ['SLURM_PROCID']}.json", "w") as file:
    json.dump(call, file)
if "fail" in sys.argv and os.environ["SLURM_PROCID"] == "1":
    sys.exit(7)
if "fail" in sys.argv:
    import time
    time.sleep(600)
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A folder with the job script and a recorder in place of the training."""
    for folder in ("slurm", "launch"):
        (tmp_path / folder).mkdir()
    shutil.copy(ROOT / "slurm" / "train.sbatch", tmp_path / "slurm")
    (tmp_path / "launch" / "train.py").write_text(RECORDER)
    return tmp_path


def submit(slurm: Slurm, folder: Path, *arguments: str) -> tuple[dict[str, str], str]:
    """Run a job over two nodes to its end; return its fields and its log."""
    job = slurm.submit("--nodes=2", *arguments, cwd=folder)
    fields = slurm.wait(job, 240)
    log = Path(fields["StdOut"])
    return fields, log.read_text() if log.exists() else ""


def test_each_node_gets_a_rank_and_all_the_arguments(slurm: Slurm, repository: Path) -> None:
    arguments = ["quickstart", "stages.0.length=2 steps", "data.train=a*b"]
    job, log = submit(slurm, repository, "slurm/train.sbatch", *arguments)
    assert job["JobState"] == "COMPLETED", log
    calls = [json.loads((repository / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    for call in calls:
        assert call["arguments"] == arguments
        assert call["SLURM_NTASKS"] == "2"
        assert call["SLURM_LOCALID"] == "0"
        assert call["MASTER_ADDR"] == "127.0.0.1"
        assert call["MASTER_PORT"] == str(15000 + int(job["JobId"]) % 10000)


def test_threads_follow_the_cpus_of_a_task_unless_given(
    slurm: Slurm, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def threads() -> str:
        job, log = submit(slurm, repository, "--cpus-per-task=2", "slurm/train.sbatch", "clip")
        assert job["JobState"] == "COMPLETED", log
        return json.loads((repository / "rank-0.json").read_text())["OMP_NUM_THREADS"]

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert threads() == "2"
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert threads() == "1"


def test_each_gpu_gets_a_rank(slurm: Slurm, repository: Path) -> None:
    gpus = ("--gpus-per-node=2", "--ntasks-per-node=2")
    job, log = submit(slurm, repository, *gpus, "slurm/train.sbatch", "clip")
    assert job["JobState"] == "COMPLETED", log
    calls = [json.loads((repository / f"rank-{rank}.json").read_text()) for rank in range(4)]
    assert [call["SLURM_LOCALID"] for call in calls] == ["0", "1", "0", "1"]


def test_gpus_that_would_idle_are_an_error(slurm: Slurm, repository: Path) -> None:
    job, log = submit(slurm, repository, "--gpus-per-node=2", "slurm/train.sbatch", "clip")
    assert job["ExitCode"] == "2:0"
    assert "error: 4 GPUs but 2 tasks: --ntasks-per-node is the number of GPUs a node" in log


def test_a_rank_that_fails_ends_the_others(slurm: Slurm, repository: Path) -> None:
    job, log = submit(slurm, repository, "slurm/train.sbatch", "fail")  # rank 0 would sleep on
    assert job["JobState"] == "FAILED"
    assert "task 1: Exited with exit code 7" in log


def test_a_job_submitted_from_elsewhere_says_so(slurm: Slurm, tmp_path: Path) -> None:
    job, log = submit(slurm, tmp_path, str(ROOT / "slurm" / "train.sbatch"), "quickstart")
    assert job["ExitCode"] == "2:0"
    assert f"error: {tmp_path} has no launch/train.py: submit from the repository's root" in log


def test_two_nodes_train_one_model(slurm: Slurm, tmp_path: Path) -> None:
    scenes, run = tmp_path / "scenes", tmp_path / "run"
    options = ["--split", "train", "--split", "val", "--workers", "1", "train=64", "val=32"]
    build = [sys.executable, "-m", "shards", "build", "scenes", "--to", str(scenes), *options]
    subprocess.run(build, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    keys = {
        "run": run,
        "data.train": scenes / "train",
        "data.val": scenes / "val",
        "data.batch_size": 16,
        "data.workers": 0,
        "method.text.vocabulary": 300,
        "stages.0.length": "4 steps",
        "training.log_every": 1,
    }
    overrides = [f"{key}={value}" for key, value in keys.items()]
    out = ["--output", f"{tmp_path}/%j.log"]
    job, log = submit(slurm, ROOT, *out, "slurm/train.sbatch", "quickstart", *overrides)
    assert job["JobState"] == "COMPLETED", log
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4]
    assert json.loads((run / "results.json").read_text())
    assert "Traceback" not in log


def test_a_wrong_recipe_is_one_line_in_the_log(slurm: Slurm, tmp_path: Path) -> None:
    out = ["--output", f"{tmp_path}/%j.log"]
    job, log = submit(slurm, ROOT, *out, "slurm/train.sbatch", "quickstart", "data.bach_size=16")
    assert job["JobState"] == "FAILED"
    errors = [line for line in log.splitlines() if "error: " in line and "srun" not in line]
    assert len(errors) == 1, log
    assert "data.bach_size" in errors[0]
