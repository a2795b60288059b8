"""Job scripts with something in place of Slurm: what they pass on, and what decides for them."""

import json
import os
import subprocess
from pathlib import Path

import pytest

SRUN = """#!/bin/bash
while [[ $1 == --* ]]; do
    [[ $1 != --error=* ]] || errors=${1#--error=}
    shift
done
SLURM_PROCID=0 "$@" 2>"${errors//%N/node}"
"""
SCONTROL = """#!/bin/bash
[[ $1 == show ]] && echo node1 || echo "$@" >>requeued
"""
TRAIN = """
import json, os, sys
json.dump(sys.argv[1:], open("arguments", "w"))
print(os.environ.get("SAID", ""), file=sys.stderr)
print(os.environ.get("SAID", ""), flush=True)
if os.environ["ENDS"] == "killed":
    os.kill(os.getpid(), 9)
sys.exit(int(os.environ["ENDS"]))
"""
JOB = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NODELIST": "node1",
    "SLURM_JOB_NUM_NODES": "1",
    "SLURM_NTASKS": "1",
    "SLURM_JOB_NAME": "-a job's $(name) 100%j",
}
NAMES = [
    "run=runs/my clip-%a",
    "run=runs/'single' \"double\"-%a",
    "run=runs/$(touch injected)-%a",
    "run=runs/`touch injected`;touch injected;-%a",
    "run=runs/two\nlines-%a",
    "run=runs/* ?\\-%a",
]


@pytest.fixture
def stand_ins(repository: Path) -> Path:
    """A repository, with commands that stand for Slurm's and for a training."""
    (repository / "launch" / "train.py").write_text(TRAIN)
    (repository / "bin").mkdir()
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "sleep": "#!/bin/bash\n"}.items():
        (repository / "bin" / name).write_text(text)
        (repository / "bin" / name).chmod(0o755)
    return repository


def submit(
    folder: Path, *arguments: str, ends: str = "0", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the script of a job, whose training ends so."""
    environment = {name: one for name, one in os.environ.items() if not name.startswith("SLURM")}
    environment |= {**JOB, "SLURM_SUBMIT_DIR": str(folder), "ENDS": ends, **variables}
    environment["PATH"] = f"{folder}/bin:{environment['PATH']}"
    command = ["bash", "slurm/train.sbatch", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("name", NAMES)
def test_arguments_arrive_as_they_are(name: str, stand_ins: Path) -> None:
    done = submit(stand_ins, "clip", name, SLURM_ARRAY_TASK_ID="2", SLURM_ARRAY_JOB_ID="9")
    assert done.returncode == 0, done.stderr
    arguments = json.loads((stand_ins / "arguments").read_text())
    assert arguments == ["clip", name.replace("%a", "2")]
    assert not (stand_ins / "injected").exists()
    assert not list(stand_ins.glob("*.codes"))


@pytest.mark.parametrize("name", ["run=runs/my clip", "data.train=x run=runs/clip-%a"])
def test_tasks_of_an_array_share_no_run_folder(name: str, stand_ins: Path) -> None:
    done = submit(stand_ins, "clip", name, SLURM_ARRAY_TASK_ID="2", SLURM_ARRAY_JOB_ID="9")
    assert done.returncode == 2
    assert "error: an array job needs a run folder a task" in done.stderr


FORGED = "error: forged\n0: error: forged\nsrun: error: node: task 0: Exited with exit code "


@pytest.mark.parametrize(
    ("ends", "forged", "requeued"),
    [
        ("killed", "2", True),
        ("killed", "1", True),
        ("75", "2", True),
        ("2", "75", False),
        ("1", "75", False),
        ("0", "75", False),
    ],
)
def test_what_tasks_print_does_not_decide_whether_a_job_comes_back(
    ends: str, forged: str, requeued: bool, stand_ins: Path
) -> None:
    done = submit(stand_ins, "clip", ends=ends, SAID=f"{FORGED}{forged}")
    assert (stand_ins / "requeued").exists() == requeued, done.stderr
    if not requeued:
        assert done.returncode == int(ends)


def test_a_command_that_is_not_there_is_no_lost_rank(stand_ins: Path) -> None:
    (stand_ins / "slurm" / "site.sh").write_text("CONTAINER=(no-such-container)\n")
    assert submit(stand_ins, "clip").returncode == 127
    assert not (stand_ins / "requeued").exists()
