"""`sbatch slurm/train.sbatch`, on a real Slurm of two nodes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.services.slurm import Slurm
from tests.slurm.conftest import ROOT
from xmodal.runs.run import Run, read_state

pytestmark = pytest.mark.slurm

# Stands where launch/train.py does and writes down how it was called.
RECORDER = """
import json, os, sys
names = ("MASTER_ADDR", "MASTER_PORT", "OMP_NUM_THREADS", "SLURM_NTASKS", "SLURM_LOCALID")
call = {name: os.environ[name] for name in names} | {"arguments": sys.argv[1:]}
call |= {name: os.environ.get(name) for name in ("MODULE", "CONTAINER", "NCCL_DEBUG")}
task = os.environ.get("SLURM_ARRAY_TASK_ID", "")
with open(f"{task}rank-{os.environ['SLURM_PROCID']}.json", "w") as file:
    json.dump(call, file)
print("said", file=sys.stderr)
"""

# Tells, for one start of the job after the other, what the two ranks end with.
ACTOR = """
import os, signal, sys, time
rank, restart = int(os.environ["SLURM_PROCID"]), int(os.environ.get("SLURM_RESTART_COUNT", 0))
part = sys.argv[1 + restart].split(",")[rank]
if part == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
if part == "late":  # it needs all the time that it is given
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
if part in ("wait", "late"):
    time.sleep(600)
print("error: ends with", part, file=sys.stderr, flush=True)
sys.exit(int(part))
"""


@pytest.fixture
def recorder(repository: Path) -> Path:
    """A repository with a recorder in place of the training."""
    (repository / "launch" / "train.py").write_text(RECORDER)
    return repository


def submit(slurm: Slurm, folder: Path, *arguments: str) -> tuple[dict[str, str], str]:
    """Run a job over two nodes to its end; return its fields and its log."""
    job = slurm.submit("--nodes=2", *arguments, cwd=folder)
    fields = slurm.wait(job, 240)
    log = Path(fields["StdOut"])
    return fields, log.read_text() if log.exists() else ""


def call_of(folder: Path, rank: int, task: str = "") -> dict[str, str]:
    """Return how a rank was called."""
    return json.loads((folder / f"{task}rank-{rank}.json").read_text())


def test_each_node_gets_a_rank_and_all_the_arguments(slurm: Slurm, recorder: Path) -> None:
    site = "SRUN_OPTIONS=(--export=ALL,MODULE=loaded)\nCONTAINER=(env CONTAINER=entered)\n"
    (recorder / "slurm" / "site.sh").write_text(site)
    arguments = ["quickstart", "stages.0.length=2 steps", "data.train=a*b", "run=x-%a"]
    job, log = submit(slurm, recorder, "slurm/train.sbatch", *arguments)
    assert job["JobState"] == "COMPLETED", log
    for call in (call_of(recorder, 0), call_of(recorder, 1)):
        assert call["arguments"] == arguments
        assert call["SLURM_NTASKS"] == "2"
        assert call["SLURM_LOCALID"] == "0"
        assert call["MASTER_ADDR"] == "127.0.0.1"
        assert call["MASTER_PORT"] == str(15000 + int(job["JobId"]) % 10000)
        assert (call["MODULE"], call["CONTAINER"]) == ("loaded", "entered")
    said = "".join(file.read_text() for file in recorder.glob(f"xmodal-{job['JobId']}-*.log"))
    assert sorted(said.splitlines()) == ["0: said", "1: said"]


def test_srun_alone_has_all_ranks_find_each_other(
    slurm: Slurm, recipe: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = [str(recipe), f"run={run}", "stages.0.length=2 steps", "data.val=null"]
    train = [sys.executable, "launch/train.py", *words]
    said = slurm.run("srun", "--nodes=2", "--ntasks=2", *train, cwd=ROOT)
    assert said.count("main: steps 1 to 2") == 1
    newest = Run(run).latest()
    assert newest
    assert read_state(newest)["ranks"] == 2


def test_threads_follow_the_cpus_of_a_task_unless_given(
    slurm: Slurm, recorder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def variables() -> tuple[str, str]:
        job, log = submit(slurm, recorder, "--cpus-per-task=2", "slurm/train.sbatch", "clip")
        assert job["JobState"] == "COMPLETED", log
        call = call_of(recorder, 0)
        return call["OMP_NUM_THREADS"], call["NCCL_DEBUG"]

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert variables() == ("2", "WARN")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("NCCL_DEBUG", "INFO")
    assert variables() == ("1", "INFO")


def test_each_gpu_gets_a_rank(slurm: Slurm, recorder: Path) -> None:
    gpus = ("--gpus-per-node=2", "--ntasks-per-node=2")
    job, log = submit(slurm, recorder, *gpus, "slurm/train.sbatch", "clip")
    assert job["JobState"] == "COMPLETED", log
    assert [call_of(recorder, rank)["SLURM_LOCALID"] for rank in range(4)] == ["0", "1", "0", "1"]


def test_gpus_that_would_idle_are_an_error(slurm: Slurm, recorder: Path) -> None:
    job, log = submit(slurm, recorder, "--gpus-per-node=2", "slurm/train.sbatch", "clip")
    assert job["ExitCode"] == "2:0"
    assert "error: 4 GPUs but 2 tasks: --ntasks-per-node is the number of GPUs a node" in log


def test_the_tasks_of_an_array_differ(slurm: Slurm, recorder: Path) -> None:
    array = ["--array=3,5", "--nodes=1", "slurm/train.sbatch"]
    number = slurm.submit(*array, "clip", "run=x-%a", "training.seed=%a", cwd=recorder)
    fields = [slurm.wait(f"{number}_{task}", 60) for task in (3, 5)]
    calls = [call_of(recorder, 0, task) for task in ("3", "5")]
    assert [call["arguments"] for call in calls] == [
        ["clip", "run=x-3", "training.seed=3"],
        ["clip", "run=x-5", "training.seed=5"],
    ]
    assert len({call["MASTER_PORT"] for call in calls}) == 2
    assert [field["JobState"] for field in fields] == ["COMPLETED"] * 2
    assert {name.name.rpartition("-")[0] for name in recorder.glob("xmodal-*_*-*.log")} == {
        f"xmodal-{number}_{task}" for task in (3, 5)
    }


def test_tasks_of_an_array_share_no_run_folder(slurm: Slurm, recorder: Path) -> None:
    array = ["--array=7", "--nodes=1", f"--output={recorder}/log", "slurm/train.sbatch"]
    number = slurm.submit(*array, "clip", "run=x-7", "training.seed=%a", cwd=recorder)
    assert slurm.wait(f"{number}_7", 60)["ExitCode"] == "2:0"
    said = "error: an array job needs a run folder a task, such as run=runs/clip-%a"
    assert said in (recorder / "log").read_text()


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        # Unfinished: one rank says so. Lost: a rank is killed, and another has said so first.
        (["75,0", "75,kill", "0,0"], 0),
        # A bug, a mistake: srun itself tells the signal that the other rank ends by.
        (["wait,1"], 1),
        (["2,wait"], 2),
    ],
)
def test_a_job_comes_back_unless_it_would_fail_again(
    slurm: Slurm, repository: Path, parts: list[str], code: int
) -> None:
    (repository / "launch" / "train.py").write_text(ACTOR)
    job, log = submit(slurm, repository, "slurm/train.sbatch", *parts)
    assert (job["ExitCode"], job["Restarts"]) == (f"{code}:0", str(len(parts) - 1)), log
    assert log.count("is queued again") == len(parts) - 1
    assert code == 0 or f": error: ends with {code}" in log


@pytest.mark.slow
def test_a_job_that_saves_after_its_time_limit_comes_back(slurm: Slurm, repository: Path) -> None:
    (repository / "launch" / "train.py").write_text(ACTOR)
    limit = ("--time=1", "--signal=USR1@30")
    job, log = submit(slurm, repository, *limit, "slurm/train.sbatch", "late,late", "0,0")
    assert (job["ExitCode"], job["Restarts"]) == ("0:0", "1"), log


def test_a_job_that_is_not_to_be_requeued_ends(slurm: Slurm, repository: Path) -> None:
    (repository / "launch" / "train.py").write_text(ACTOR)
    job, log = submit(slurm, repository, "--no-requeue", "slurm/train.sbatch", "75,0")
    assert (job["ExitCode"], job["Restarts"]) == ("75:0", "0"), log


def test_a_job_submitted_from_elsewhere_says_so(slurm: Slurm, tmp_path: Path) -> None:
    job, log = submit(slurm, tmp_path, str(ROOT / "slurm" / "train.sbatch"), "quickstart")
    assert job["ExitCode"] == "2:0"
    assert f"error: {tmp_path} has no slurm/job.sh: submit from the repository's root" in log


def test_a_wrong_recipe_is_one_line_in_the_log(slurm: Slurm, tmp_path: Path) -> None:
    out = ["--output", f"{tmp_path}/%j.log", "--job-name", f"{tmp_path}/job"]
    job, log = submit(slurm, ROOT, *out, "slurm/train.sbatch", "quickstart", "data.bach_size=16")
    assert (job["ExitCode"], job["Restarts"]) == ("2:0", "0")
    errors = [line for line in log.splitlines() if "error: " in line and "srun" not in line]
    assert len(errors) == 1, log
    assert "data.bach_size" in errors[0]


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "slurm").glob("*.sbatch")))
def test_scripts_tell_their_use(script: str) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", f"slurm/{script}", *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    told = run("--help")
    assert told.returncode == 0, told.stderr
    assert f"sbatch slurm/{script} " in told.stdout
    assert "#SBATCH --time" in told.stdout
    refused = run("quickstart")
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: this is a job script: sbatch")
