"""Runs whose checkpoints are copied to a bucket, and go on from there on another disk."""

import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.commands import Done, train
from tests.launch.conftest import STEPS
from tests.launch.test_preemption import ask_to_stop
from tests.run_folders import STEP, kept_checkpoints, steps
from tests.services.daemons import until
from tests.services.s3 import Gateway
from xmodal.data.storage.s3 import S3Config
from xmodal.runs.run import Run

pytestmark = pytest.mark.s3

# Called as a checkpoint is about to be sent, once another one of this process is in the bucket.
SENDING = "xmodal.runs.checkpoints.mirror:Mirror._kept:{}"
PUT = "xmodal.runs.checkpoints.mirror:Mirror._put"
WEIGHTS = "mp_rank_00_model_states.pt"


class Mirrored:
    """A mirror in a bucket of its own, and runs that have it."""

    def __init__(self, s3: Gateway, recipe: Path) -> None:
        self.s3, self.recipe = s3, recipe
        self.url = f"{s3.bucket()}/runs/mine"
        self.storage = S3Config(endpoint=s3.endpoint, **s3.places).build()

    def train(self, run: Path, *given: object, **options: Any) -> Done:
        words = [f"run={run}", f"checkpoints.mirror={self.url}", *given]
        words.append(f"data.s3.endpoint={self.s3.endpoint}")
        keys = {name: value for name, value in self.s3.environment.items() if "KEY" in name}
        return train(self.recipe, *words, environment=keys, **options)

    def checkpoints(self) -> set[str]:
        """The names of the checkpoints of which something is there."""
        return set(self.storage.folders(f"{self.url}/checkpoints"))

    def damage(self, step: int, name: str = WEIGHTS) -> None:
        """Change a byte of a file of a checkpoint."""
        url = f"{self.url}/checkpoints/step-{step}/{name}"
        data = bytearray(self.storage.read(url))
        data[len(data) // 2] ^= 1
        self.storage.write(url, bytes(data))


@pytest.fixture
def mirror(s3: Gateway, recipe: Path) -> Mirrored:
    return Mirrored(s3, recipe)


def test_on_another_disk_it_goes_on_as_if_nothing_had_been(
    mirror: Mirrored, finished: Path, tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    stopped = mirror.train(here, before={STEP: partial(ask_to_stop, signal.SIGTERM, 14, 0)})
    assert stopped.code == 75, stopped
    assert {"step-12", "step-14"} <= mirror.checkpoints()
    done = mirror.train(there, "checkpoints.keep_last=1")
    assert done.code == 0, done.err
    assert f"Downloaded checkpoint step-14 from {mirror.url}\n" in done.out
    assert f"main: steps 15 to {STEPS}" in done.out
    assert steps(there) == steps(finished)
    assert (there / "tokenizer.json").read_text() == (here / "tokenizer.json").read_text()
    # What is old goes in the bucket as on the disk.
    assert mirror.checkpoints() == kept_checkpoints(there) - {"latest"}
    results = mirror.storage.read(f"{mirror.url}/results.json")
    assert results == Run(there).results.read_bytes()
    other = mirror.train(tmp_path / "other", "training.seed=1")
    assert "was begun with another recipe (training.seed: 0 → 1)" in other.error
    assert not (tmp_path / "other").exists()


def test_what_is_broken_in_the_bucket_is_never_gone_on_from(
    mirror: Mirrored, finished: Path, tmp_path: Path
) -> None:
    killed = mirror.train(tmp_path / "here", "data.val=null", killed_at=SENDING.format(2))
    assert killed.code == -9
    mirror.damage(12)
    done = mirror.train(tmp_path / "there", "data.val=null")
    assert done.code == 0, done.err
    assert (
        f"warning: checkpoint {mirror.url}/checkpoints/step-12 is broken ({WEIGHTS} is not what "
        "was written): resuming from step-6\n"
    ) in done.out
    assert steps(tmp_path / "there") == steps(finished)
    mirror.damage(18)
    mirror.storage.remove(f"{mirror.url}/checkpoints/step-24/{WEIGHTS}")
    error = mirror.train(tmp_path / "new", "data.val=null").error
    assert f"no checkpoint in checkpoints.mirror={mirror.url} is whole" in error
    assert f"step-24 is broken ({WEIGHTS} is missing)" in error
    assert not (tmp_path / "new" / "metrics.jsonl").exists()


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_each_rank_sends_its_share_and_other_ranks_fetch_it(
    zero: int, mirror: Mirrored, finished: Path, tmp_path: Path
) -> None:
    for number, ranks in enumerate((2, 1, 4)):
        died = "" if ranks == 4 else SENDING.format(1)
        run = tmp_path / str(number)
        given = ["data.val=null", "checkpoints.every=4 steps", f"training.zero={zero}"]
        done = mirror.train(run, *given, ranks=ranks, killed_at=died)
        assert done.code == (-9 if died else 0), done.err
        assert f"step-{4 * number} from" in done.out or not number
    assert list(steps(run)) == list(range(1, STEPS + 1))
    assert list(steps(run).values()) == pytest.approx(list(steps(finished).values()), rel=1e-5)


def hold(folder: Path, calls: Any, *_: object) -> None:
    """Make the file `held` at the tenth call, and wait for `go`."""
    if next(calls) == 10:
        (folder / "held").touch()
        while not (folder / "go").exists():
            time.sleep(0.01)


@pytest.mark.slow
def test_a_gateway_is_lost_while_it_sends_and_training_goes_on(
    mirror: Mirrored, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with ThreadPoolExecutor(1) as pool:
        before = {PUT: partial(hold, tmp_path, count(1))}
        running = pool.submit(mirror.train, run, "data.val=null", before=before)
        until(
            lambda: running.done() or (tmp_path / "held").exists(), 100, "a checkpoint on its way"
        )
        mirror.s3.stop()
        try:
            (tmp_path / "go").touch()
            until(lambda: running.done() or len(steps(run)) > 17, 60, "steps meanwhile")
            time.sleep(2)
            assert not running.done()
        finally:
            mirror.s3.start()
        done = running.result()
    assert done.code == 0, done.err
    assert "the upload of" not in done.out + done.err
    assert steps(run) == steps(finished)
    assert mirror.checkpoints() == {"step-18", "step-24"}
    again = mirror.train(tmp_path / "there", "data.val=null")
    assert again.code == 0, again.err
    assert f"step-{STEPS} from" in again.out


@pytest.mark.slow
def test_without_the_bucket_training_comes_to_its_end(
    mirror: Mirrored, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with ThreadPoolExecutor(1) as pool:
        before = {PUT: partial(hold, tmp_path, count(1))}
        given = ["data.val=null", "data.s3.patience=1"]
        running = pool.submit(mirror.train, run, *given, before=before)
        until(
            lambda: running.done() or (tmp_path / "held").exists(), 100, "a checkpoint on its way"
        )
        mirror.s3.stop()
        try:
            (tmp_path / "go").touch()
            done = running.result()
        finally:
            mirror.s3.start()
    assert done.code == 0, done.err
    assert steps(run) == steps(finished)
    assert f"warning: the upload of step-24 to {mirror.url} failed: s3://" in done.out
    assert "step-6" in mirror.checkpoints()  # what was there stays
    # The same command brings there what is missing; then what is old goes.
    died = mirror.train(run, *given, killed_at=f"{PUT}:2")
    assert died.code == -9
    assert "step-6" in mirror.checkpoints()
    assert mirror.train(run, *given).code == 0
    assert mirror.checkpoints() == {"step-24"}


@pytest.mark.slow
@pytest.mark.parametrize("number", range(2, 21, 3))
def test_killed_as_it_sends_it_goes_on_from_what_is_whole(
    number: int, mirror: Mirrored, finished: Path, tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    assert mirror.train(here, "data.val=null", killed_at=f"{PUT}:{number}").code == -9
    done = mirror.train(there, "data.val=null")
    if number <= 5:  # nothing is whole: that is said, and the disk that has it goes on
        assert "no checkpoint in checkpoints.mirror" in done.error
        there = here
        done = mirror.train(there, "data.val=null")
    assert done.code == 0, done.err
    assert steps(there) == steps(finished)
    assert mirror.checkpoints() == {"step-18", "step-24"}


@pytest.mark.slow
@pytest.mark.parametrize("number", range(1, 8))
def test_killed_as_it_fetches_it_fetches_again(
    number: int, mirror: Mirrored, finished: Path, tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    assert mirror.train(here, "data.val=null", killed_at=SENDING.format(2)).code == -9
    died = f"xmodal.runs.checkpoints.mirror:Mirror._get:{number}"
    assert mirror.train(there, "data.val=null", killed_at=died).code == -9
    done = mirror.train(there, "data.val=null")
    assert done.code == 0, done.err
    assert steps(there) == steps(finished)


@pytest.mark.slow
def test_a_disk_that_is_behind_takes_what_is_newer(
    mirror: Mirrored, finished: Path, tmp_path: Path
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    assert mirror.train(here, killed_at=SENDING.format(1)).code == -9
    assert mirror.train(there, killed_at=SENDING.format(2)).code == -9
    assert Run(here).latest() == Run(here).checkpoint(12)
    done = mirror.train(here)
    assert done.code == 0, done.err
    assert "step-18 from" in done.out
    assert steps(here) == steps(finished)


@pytest.mark.slow
def test_the_best_comes_along(mirror: Mirrored, tmp_path: Path) -> None:
    stop = {STEP: partial(ask_to_stop, signal.SIGTERM, 20, 0)}
    assert mirror.train(tmp_path / "here", "checkpoints.keep_last=1", before=stop).code == 75
    newest = Run(tmp_path / "here").find_checkpoint("latest")
    best = Run(tmp_path / "here").find_checkpoint("best").name
    assert newest.name == "step-20" != best
    stop = {STEP: partial(ask_to_stop, signal.SIGTERM, 21, 0)}
    assert mirror.train(tmp_path / "there", "checkpoints.keep_last=2", before=stop).code == 75
    assert kept_checkpoints(tmp_path / "there") == {best, "step-20", "step-21", "latest"}
    assert mirror.checkpoints() == {best, "step-20", "step-21"}


@pytest.mark.slow
def test_what_is_broken_on_the_disk_comes_from_the_bucket(
    mirror: Mirrored, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert mirror.train(run, killed_at=SENDING.format(2)).code == -9
    newest = Run(run).latest()
    assert newest == Run(run).checkpoint(18)
    for step in (18, 12):
        (Run(run).checkpoint(step) / WEIGHTS).write_bytes(b"")
    done = mirror.train(run)
    assert done.code == 0, done.err
    assert "resuming from step-6" in done.out
    assert "step-12 from" in done.out
    assert steps(run) == steps(finished)


def test_where_all_on_the_disk_is_broken_the_bucket_is_asked(
    mirror: Mirrored, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert mirror.train(run, killed_at=SENDING.format(2)).code == -9
    for folder in Run(run).finished():
        (folder / WEIGHTS).write_bytes(b"")
    done = mirror.train(run)
    assert done.code == 0, done.err
    assert f"warning: checkpoint {run}/checkpoints/step-18 is broken ({WEIGHTS} has 0 " in done.out
    assert "step-12 from" in done.out
    assert steps(run) == steps(finished)
    assert {"step-18.broken", "step-12.broken", "step-6.broken"} <= kept_checkpoints(run)


@pytest.mark.slow
def test_where_nothing_is_whole_anywhere_a_run_does_not_begin_again(
    mirror: Mirrored, recipe: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert train(recipe, f"run={run}").code == 0
    for folder in Run(run).finished():
        (folder / WEIGHTS).write_bytes(b"")
    for _ in range(2):
        assert "no checkpoint in " in mirror.train(run).error
    assert f"step-{STEPS}.broken" in kept_checkpoints(run)


MISTAKES: dict[str, tuple[Callable[[Mirrored], str], str]] = {
    "something else": (lambda mirror: mirror.url.rpartition("/")[0], "holds something else"),
    "no bucket": (lambda _: "s3://nobodys/runs", "there is no such bucket"),
    "a disk": (lambda _: "runs/mirror", "write s3://BUCKET/FOLDER"),
}


@pytest.mark.slow
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_makes_nothing(
    mistake: str, mirror: Mirrored, tmp_path: Path
) -> None:
    mirror.storage.write(f"{mirror.url}/thesis.tex", b"x")
    url, line = MISTAKES[mistake]
    mirror.url = url(mirror)
    assert line in mirror.train(tmp_path / "run").error
    assert not (tmp_path / "run").exists()
