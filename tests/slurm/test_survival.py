"""Jobs that are preempted, asked to stop, killed or lose a node go on, on a real Slurm."""

import os
import re
import signal
from pathlib import Path

import pytest

from tests.commands import train
from tests.runs import steps
from tests.services.daemons import until
from tests.services.slurm import Slurm
from tests.slurm.conftest import ROOT
from xmodal.training.run import Run

pytestmark = pytest.mark.slurm

STEPS = 180
# Long enough that a test catches it in the middle, and nothing else that takes time.
LONGER = [f"stages.0.length={STEPS} steps", "data.val=null", "checkpoints.every=25 steps"]


@pytest.fixture(scope="module")
def undisturbed(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """The losses of a run on two ranks that nobody disturbs."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    done = train(recipe, f"run={run}", *LONGER, ranks=2)
    assert done.code == 0, done.err
    return steps(run)


class Job:
    """A training on both nodes, whose log and run folder lie in one folder of a test."""

    def __init__(self, slurm: Slurm, recipe: Path, folder: Path, *options: str) -> None:
        self.slurm, self.run, self.log = slurm, folder / "run", folder / "job.log"
        given = ["--nodes=2", f"--output={self.log}", f"--job-name={folder}/job", *options]
        words = [str(recipe), f"run={self.run}", *LONGER]
        self.number = slurm.submit(*given, "slurm/train.sbatch", *words, cwd=ROOT)

    def reach(self, step: int) -> None:
        """Wait until the run has logged a step."""
        file, line = Run(self.run).metrics, f'"step": {step},'
        what = f"step {step} of job {self.number}"
        until(lambda: file.exists() and line in file.read_text(), 200, what, [self.log])

    def pid(self, rank: int) -> int:
        """Return the process of a rank."""
        names = {f"SLURM_JOB_ID={self.number}".encode(), f"SLURM_PROCID={rank}".encode()}
        for process in filter(lambda path: path.name.isdigit(), Path("/proc").iterdir()):
            words = (process / "cmdline").read_bytes().split(b"\0")
            names_its = set((process / "environ").read_bytes().split(b"\0"))
            if words[1:2] == [b"launch/train.py"] and names <= names_its:
                return int(process.name)
        raise ProcessLookupError(f"rank {rank} of job {self.number}")

    def end(self, restarts: int) -> str:
        """Wait for the job's end after so many restarts; return what its log says."""
        fields = self.slurm.wait(self.number, 280)
        said = self.log.read_text()
        assert (fields["JobState"], fields["Restarts"]) == ("COMPLETED", str(restarts)), said
        return said


def test_a_job_survives_requeue_signal_and_kill(
    slurm: Slurm, recipe: Path, undisturbed: dict[int, float], tmp_path: Path
) -> None:
    job = Job(slurm, recipe, tmp_path)
    job.reach(30)
    slurm.run("scontrol", "requeue", job.number)
    job.reach(75)
    slurm.run("scancel", "--signal=USR1", job.number)
    job.reach(115)
    os.kill(job.pid(1), signal.SIGKILL)
    said = job.end(restarts=3)
    assert steps(job.run) == undisturbed
    # After a requeue and a signal at the step that was under way, after the kill at a checkpoint.
    begun = [int(step) for step in re.findall(r"main: steps (\d+) to", said)]
    assert begun[0] == 1
    assert 30 < begun[1] - 1 < 75 < begun[2] - 1 < 115
    assert begun[3] == 101
    assert "Traceback" not in said
    assert said.count("is queued again") == 2
