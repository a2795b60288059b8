"""Jobs that are preempted, asked to stop, killed or lose a node go on, on a real Slurm."""

import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.commands import train
from tests.processes import find_process
from tests.run_folders import shown_steps, steps
from tests.services.daemons import until
from tests.services.slurm import NODES, Slurm
from tests.slurm.conftest import ROOT
from xmodal.runs.run import Run

pytestmark = pytest.mark.slurm

STEPS = 100
# Long enough that a test catches it in the middle, and nothing else that takes time.
LONGER = [f"stages.0.length={STEPS} steps", "data.val=null", "checkpoints.every=20 steps"]


@pytest.fixture(scope="module")
def undisturbed(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """The losses of a run on two ranks that nobody disturbs."""
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    done = train(recipe, f"run={run}", *LONGER, ranks=2)
    assert done.code == 0, done.err
    return steps(run)


class Job:
    """A training on both nodes, whose log and run folder lie in one folder of a test."""

    def __init__(
        self, slurm: Slurm, recipe: Path, folder: Path, *keys: str, options: Sequence[str] = ()
    ) -> None:
        self.slurm, self.run, self.log = slurm, folder / "run", folder / "job.log"
        self.begun = time.monotonic()
        given = ["--nodes=2", f"--output={self.log}", f"--job-name={folder}/job", *options]
        words = [str(recipe), f"run={self.run}", *LONGER, *keys]
        self.number = slurm.submit(*given, "slurm/train.sbatch", *words, cwd=ROOT)

    def reach(self, step: int) -> None:
        """Wait until the run has logged a step."""
        what = f"step {step} of job {self.number}"
        until(lambda: self.step() >= step, 200, what, [self.log])

    def step(self) -> int:
        """Return the last step that the run has logged."""
        return max((row["step"] for row in Run(self.run).history()), default=0)

    def until_restarted(self, restarts: int) -> None:
        """Wait until the job has been taken from its nodes so often."""
        what = f"restart {restarts} of job {self.number}"
        until(
            lambda: self.slurm.job(self.number)["Restarts"] == str(restarts), 120, what, [self.log]
        )

    def rank(self, rank: int) -> psutil.Process:
        """Return the process of a rank."""
        return find_process("launch/train.py", SLURM_JOB_ID=self.number, SLURM_PROCID=str(rank))

    def starts(self, rank: int) -> bool:
        """Tell whether a rank is there."""
        with suppress(LookupError):
            return self.rank(rank).is_running()
        return False

    def end(self, restarts: int) -> str:
        """Wait for the job's end after so many restarts; return what its log says."""
        fields = self.slurm.wait(self.number, 500)
        said = self.log.read_text()
        assert (fields["JobState"], fields["Restarts"]) == ("COMPLETED", str(restarts)), said
        return said

    def told(self) -> str:
        """Return the figures of a job that has ended well."""
        starts = int(self.slurm.job(self.number)["Restarts"]) + 1
        return f"{self.step()} steps, {starts} starts, {time.monotonic() - self.begun:.0f} s"


def test_a_job_survives_requeue_signal_and_kill(
    slurm: Slurm,
    recipe: Path,
    undisturbed: dict[int, float],
    tmp_path: Path,
    figure: Callable[[str], None],
) -> None:
    job = Job(slurm, recipe, tmp_path)
    job.reach(15)
    slurm.run("scontrol", "requeue", job.number)
    job.reach(40)
    slurm.run("scancel", "--signal=USR1", job.number)
    job.reach(65)
    job.rank(1).kill()
    said = job.end(restarts=3)
    assert steps(job.run) == undisturbed
    assert shown_steps(job.run) == list(range(1, STEPS + 1))
    begun = [int(step) for step in re.findall(r"main: steps (\d+) to", said)]
    assert begun[0] == 1
    # After a requeue and a signal at the step that was under way, after the kill at a checkpoint.
    assert 15 < begun[1] - 1 < 40 < begun[2] - 1 < 65
    assert (begun[3] - 1) % 20 == 0
    assert "Traceback" not in said
    assert said.count("is queued again") == 2
    figure(job.told())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_job_survives_the_loss_of_a_node(
    slurm: Slurm,
    recipe: Path,
    undisturbed: dict[int, float],
    tmp_path: Path,
    figure: Callable[[str], None],
) -> None:
    job = Job(slurm, recipe, tmp_path)
    job.reach(30)
    slurm.lose(NODES[1])
    job.until_restarted(1)
    slurm.start(NODES[1])
    job.end(restarts=1)
    assert steps(job.run) == undisturbed
    figure(job.told())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_job_makes_room_and_comes_back(
    slurm: Slurm, recipe: Path, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    # It takes Slurm some seconds to make room.
    job = Job(slurm, recipe, tmp_path, "stages.0.length=300 steps")
    job.reach(30)
    urgent = ["--partition=urgent", "--nodes=2", "--exclusive", "--wrap=sleep 3"]
    other = slurm.submit(*urgent, f"--output={tmp_path}/other.log", cwd=tmp_path)
    assert slurm.wait(other, 100)["JobState"] == "COMPLETED"
    job.end(restarts=1)
    assert list(steps(job.run)) == list(range(1, 301))
    complaints = "".join(path.read_text() for path in tmp_path.glob("job-*.log"))
    assert "Interrupted; saved step-" in complaints
    figure(job.told())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_job_that_has_no_more_time_goes_on_in_its_next(
    slurm: Slurm, recipe: Path, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    # Slurm looks at times once a minute: the signal comes in the first minute of two.
    options = ["--time=2", "--signal=USR1@60"]
    job = Job(slurm, recipe, tmp_path, "stages.0.length=800 steps", options=options)
    said = job.end(restarts=int(slurm.wait(job.number, 800)["Restarts"]))
    begun = [int(step) for step in re.findall(r"main: steps (\d+) to", said)]
    assert len(begun) > 1
    assert "TIME LIMIT" not in said
    assert list(steps(job.run)) == list(range(1, 801))
    figure(job.told())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_job_that_hangs_comes_back(
    slurm: Slurm,
    recipe: Path,
    undisturbed: dict[int, float],
    tmp_path: Path,
    figure: Callable[[str], None],
) -> None:
    job = Job(slurm, recipe, tmp_path, "training.watchdog=5", "training.rendezvous_timeout=20")
    until(lambda: job.starts(1), 100, "the job's start")
    # The rank is there and does not answer: it says nothing until the others have left.
    job.rank(1).suspend()
    job.until_restarted(1)
    job.reach(30)
    job.rank(1).suspend()
    said = job.end(restarts=2)
    assert steps(job.run) == undisturbed
    assert f"error: rank 0: rank 1 (node {NODES[1]}) did not answer within 20 s" in said
    assert re.search(
        r"error: rank 0 \(127.0.0.1\) has waited longer than .*step \d+ \(stage main\)", said
    )
    figure(job.told())


@pytest.mark.slow
def test_a_job_that_comes_to_nothing_is_given_up(
    slurm: Slurm, recipe: Path, tmp_path: Path
) -> None:
    job = Job(slurm, recipe, tmp_path, "training.restarts=1")
    for restarts in (0, 1):
        until(lambda: job.starts(1), 100, "the job's start")
        job.rank(1).kill()
        job.until_restarted(restarts + 1)
    fields = slurm.wait(job.number, 100)
    assert (fields["ExitCode"], fields["Restarts"]) == ("2:0", "2")
    assert f"error: job {job.number} was started again 1 times without" in job.log.read_text()
