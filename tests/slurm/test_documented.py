"""The jobs that the documentation submits are accepted, and call what they are to call."""

import re
from pathlib import Path

import pytest

from tests.documented import texts
from tests.services.slurm import Slurm

pytestmark = pytest.mark.slurm

# What the cluster of the tests has: two nodes of two CPUs and two GPUs.
SMALLER = {
    r"--nodes=\d+": "--nodes=2",
    r"--ntasks-per-node=\d+": "--ntasks-per-node=2",
    r"--gpus-per-node=\d+": "--gpus-per-node=2",
    r"--array=0-\d+": "--array=0-1",
}
JOBS = [
    command
    for page in texts()
    if page.name in ("docs/cluster.md", "docs/shards.md")
    for command in page.commands
    if command[0] == "sbatch" and "[key=value" not in command
]


def smaller(word: str) -> str:
    for pattern, replacement in SMALLER.items():
        word = re.sub(f"^{pattern}$", replacement, word)
    return word


@pytest.mark.parametrize("command", JOBS, ids=" ".join)
def test_a_documented_job_runs(command: list[str], slurm: Slurm, repository: Path) -> None:
    said = "import sys\nprint(' '.join(sys.argv))\n"
    for script in (
        "launch/train.py",
        "launch/evaluate.py",
        "launch/embed.py",
        "shards/__main__.py",
    ):
        (repository / script).parent.mkdir(exist_ok=True)
        (repository / script).write_text(said)
    script = next(number for number, word in enumerate(command) if word.startswith("slurm/"))
    options = [smaller(word) for word in command[1:script]]
    tasks = ["_0", "_1"] if "--array=0-1" in options else [""]
    log = f"--output={repository}/%j.log"
    number = slurm.submit(*options, log, *command[script:], cwd=repository)
    jobs = [slurm.wait(number + task, 60) for task in tasks]
    for job, task in zip(jobs, tasks, strict=True):
        text = Path(job["StdOut"]).read_text()
        assert job["ExitCode"] == "0:0", text
        words = " ".join(command[script + 1 :]).replace("%a", task.strip("_"))
        assert words in text


def test_there_are_documented_jobs() -> None:
    assert len(JOBS) >= 4
