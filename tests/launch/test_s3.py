"""Training and evaluation from a bucket, as from disk, whatever befalls it meanwhile."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from shards.build import build
from tests.commands import ROOT, Done, evaluate, train
from tests.run_folders import (
    READ,
    STEP,
    evaluations,
    note_ids,
    note_read,
    noted_ids,
    noted_reads,
    pause_at,
    results,
    steps,
)
from tests.services.daemons import until
from tests.services.proxy import Proxy, cuts, proxy
from tests.services.s3 import Gateway
from xmodal.data.storage.s3 import S3Config, S3Storage
from xmodal.runs.progress import NAMED_FAULTS
from xmodal.runs.run import Run

pytestmark = pytest.mark.s3

LENGTH = 48
# Of each lane four samples are in memory, for two steps: there is something to read all the time.
SMALL = ("data.batch_size=8", "data.lanes=4", "data.window=4", f"stages.0.length={LENGTH} steps")


@dataclass
class Shards:
    """The same shards twice, and what tells a run where the bucket is and lets it in."""

    disk: Path
    bucket: str
    given: list[str]
    environment: dict[str, str]


@pytest.fixture(scope="module")
def shards(s3: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Shards:
    """Shards of scenes built to disk, and built to a bucket and indexed again there."""
    disk, bucket = tmp_path_factory.mktemp("shards"), s3.bucket()
    options = {"train": 160, "val": 48}
    build("scenes", disk, splits=["train", "val"], options=options, samples_per_shard=16)
    words = [f"{name}={count}" for name, count in options.items()]
    words += ["--split=train", "--split=val", "--samples-per-shard=16", "--workers=1"]
    run_shards(s3, "build", "scenes", "--to", f"{bucket}/scenes", *words)
    for name in storage(s3).list(f"{bucket}/scenes/train"):
        if not name.endswith(".tar"):
            storage(s3).remove(f"{bucket}/scenes/train/{name}")
    run_shards(s3, "index", f"{bucket}/scenes/train")
    keys = {name: value for name, value in s3.environment.items() if "KEY" in name}
    return Shards(disk, f"{bucket}/scenes", [f"data.s3.endpoint={s3.endpoint}"], keys)


def storage(s3: Gateway) -> S3Storage:
    return S3Config(endpoint=s3.endpoint, **s3.places).build()


def run_shards(s3: Gateway, *words: str) -> None:
    command = [sys.executable, "-m", "shards", *words]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | s3.environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def from_disk(shards: Shards, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run from disk, `run` and `ids` in it."""
    folder = tmp_path_factory.mktemp("disk")
    done = spied_on(folder, recipe, f"data.train={shards.disk}/train", "data.val=null", *SMALL)
    assert done.code == 0, done.err
    return folder


def spied_on(folder: Path, *arguments: object, pause: int = 0, **options: Any) -> Done:
    """Train, with notes of the ids in `ids` and of reads of the bucket in `reads`."""
    (folder / "ids").mkdir()
    (folder / "reads").touch()
    before = {
        STEP: partial(note_ids, folder / "ids"),
        READ: partial(note_read, folder / "reads"),
        # Called once a step, after it.
        "xmodal.training.trainer:Trainer._log": partial(pause_at, pause, folder),
    }
    return train(*arguments, f"run={folder}/run", before=before, **options)


def from_bucket(shards: Shards, recipe: Path, folder: Path, *given: str, **options: Any) -> Done:
    """Train as `from_disk`, from the bucket."""
    words = [f"data.train={shards.bucket}/train", "data.val=null", *SMALL, *shards.given, *given]
    return spied_on(folder, recipe, *words, environment=shards.environment, **options)


def assert_as_from_disk(folder: Path, disk: Path, ranks: int = 1) -> None:
    assert noted_ids(folder / "ids") == noted_ids(disk / "ids")
    assert list(steps(folder / "run")) == list(range(1, LENGTH + 1))
    if ranks == 1:
        assert steps(folder / "run") == steps(disk / "run")
    else:
        assert steps(folder / "run") == pytest.approx(steps(disk / "run"), rel=1e-5)


def tars(reads: list[tuple[float, str]]) -> list[tuple[float, str]]:
    return [(moment, url) for moment, url in reads if url.endswith(".tar")]


@pytest.mark.parametrize(("ranks", "workers"), [(1, 0), (2, 2)])
def test_from_a_bucket_it_trains_as_from_disk(
    ranks: int,
    workers: int,
    s3: Gateway,
    shards: Shards,
    recipe: Path,
    from_disk: Path,
    tmp_path: Path,
) -> None:
    done = from_bucket(shards, recipe, tmp_path, f"data.workers={workers}", ranks=ranks)
    assert done.code == 0, done.err
    assert done.err == ""
    assert_as_from_disk(tmp_path, from_disk, ranks)
    assert {row["read_retries"] for row in Run(tmp_path / "run").history()} == {0}
    assert_no_secret(s3, done, tmp_path)


def test_what_a_cache_keeps_is_read_once(
    shards: Shards, recipe: Path, from_disk: Path, tmp_path: Path
) -> None:
    cache = f"data.cache={{folder: {tmp_path}/cache, gigabytes: 1}}"
    num_shards = len(list((shards.disk / "train").glob("*.tar")))
    for number, expected in enumerate([num_shards, 0]):
        folder = tmp_path / str(number)
        folder.mkdir()
        done = from_bucket(shards, recipe, folder, cache, "data.workers=2")
        assert done.code == 0, done.err
        assert_as_from_disk(folder, from_disk)
        # Two workers may want a piece at once, before either has kept it.
        num_reads = len(tars(noted_reads(folder / "reads")))
        assert expected <= num_reads <= 2 * expected


@pytest.mark.parametrize(("ranks", "workers"), [pytest.param(1, 0, marks=pytest.mark.slow), (2, 2)])
def test_a_gateway_is_lost_during_training_and_comes_back(
    ranks: int,
    workers: int,
    s3: Gateway,
    shards: Shards,
    recipe: Path,
    from_disk: Path,
    tmp_path: Path,
) -> None:
    with ThreadPoolExecutor(1) as pool:
        given = (f"data.workers={workers}",)
        running = pool.submit(
            from_bucket, shards, recipe, tmp_path, *given, ranks=ranks, pause=LENGTH // 4
        )
        until(lambda: running.done() or (tmp_path / "paused").exists(), 100, "the step")
        s3.stop()
        try:
            (tmp_path / "go").touch()
            time.sleep(2)
        finally:
            s3.start()
        back = time.monotonic()
        done = running.result()
    assert done.code == 0, done.err
    assert_as_from_disk(tmp_path, from_disk, ranks)
    assert len([moment for moment, _ in tars(noted_reads(tmp_path / "reads")) if moment > back]) > 9
    assert_retries_are_named(done, tmp_path, shards)
    assert_waiting_is_named(done, tmp_path, shards)


def assert_retries_are_named(done: Done, folder: Path, shards: Shards) -> None:
    counted = [row["read_retries"] for row in Run(folder / "run").history()]
    assert counted == sorted(counted)
    assert counted[-1] > 0
    named = [line for line in done.out.splitlines() if "; attempt " in line]
    assert len(named) == min(counted[-1], NAMED_FAULTS)
    assert all(line.startswith(f"{shards.bucket}/train/train-0000") for line in named)
    more = "further retried reads are counted (read_retries) but not named"
    assert done.out.count(more) == (counted[-1] >= NAMED_FAULTS)


def assert_waiting_is_named(done: Done, folder: Path, shards: Shards) -> None:
    longest = max(Run(folder / "run").history(), key=lambda row: row["data_wait"])
    assert longest["data_wait"] > 0.5
    assert longest["read_wait"] > 0.5
    assert longest["slowest_shard"].startswith(f"{shards.bucket}/train/train-0000")
    (line,) = [line for line in done.out.splitlines() if f" step {longest['step']}/" in line]
    assert f" (storage, longest for {longest['slowest_shard']})" in line


@pytest.fixture
def network(s3: Gateway) -> Iterator[Proxy]:
    with proxy(s3.port) as opened:
        yield opened


@pytest.mark.parametrize("workers", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_connections_are_cut_at_random(
    workers: int, network: Proxy, shards: Shards, recipe: Path, from_disk: Path, tmp_path: Path
) -> None:
    network.befall(cuts(workers, within=200_000))
    given = (f"data.s3.endpoint={network.endpoint}", f"data.workers={workers}")
    done = from_bucket(shards, recipe, tmp_path, *given)
    assert done.code == 0, done.err
    assert network.num_cut > 9
    assert_as_from_disk(tmp_path, from_disk)
    assert_retries_are_named(done, tmp_path, shards)


def test_evaluation_from_a_bucket_is_that_from_disk(
    shards: Shards, recipe: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    words = [recipe, f"run={run}", f"data.train={shards.bucket}/train", "stages.0.length=6 steps"]
    words += [f"data.val={shards.bucket}/val", "data.workers=2", *shards.given]
    done = train(*words, environment=shards.environment)
    assert done.code == 0, done.err
    measured = results(run)
    assert evaluations(run) == {6: measured}
    assert any(name.startswith("relevance/") for name in measured)  # relevance.json came too
    for place in (shards.bucket, shards.disk):
        done = evaluate(run, "--data", f"{place}/val", environment=shards.environment)
        folder = done.folder
        assert (folder == run) == (place == shards.bucket)
        assert f"checkpoints/step-6 on {place}/val" in done.out
        assert results(folder) == measured


def test_the_secret_of_a_recipe_is_nowhere_in_a_run(
    s3: Gateway, shards: Shards, recipe: Path, tmp_path: Path
) -> None:
    done = train(
        *(recipe, f"run={tmp_path}/run", "stages.0.length=2 steps", *shards.given),
        *(f"data.train={shards.bucket}/train", f"data.val={shards.bucket}/val"),
        *(f"data.s3.{name}.file={place['file']}" for name, place in s3.places.items()),
        f"data.cache={{folder: {tmp_path}/cache, gigabytes: 1}}",
    )
    assert done.code == 0, done.err
    assert_no_secret(s3, done, tmp_path)


def assert_no_secret(s3: Gateway, done: Done, folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 8
    said = [path.read_bytes() for path in files] + [done.out.encode(), done.err.encode()]
    assert not any(s3.secret.encode() in text for text in said)


MISTAKES = {
    "a key": ({"AWS_ACCESS_KEY_ID": "wrong"}, "BUCKET/train", "the access key is not known"),
    "a secret": (
        {"AWS_SECRET_ACCESS_KEY": "wrongsecret"},
        "BUCKET/train",
        "the secret key is not that of the access key",
    ),
    "a bucket": ({}, "s3://nobodys/train", "s3://nobodys/train: there is no such bucket at "),
    "a folder": ({}, "BUCKET/none", "there is no folder BUCKET/none with shards"),
    "no index": ({}, "BUCKET/bare", "no shardindex.json: run `python -m shards index BUCKET/bare`"),
    "another scheme": ({}, "gs://mine/train", "gs:// is not supported"),
}


@pytest.mark.parametrize(
    ("split", "mistake"), [*(("train", mistake) for mistake in MISTAKES), ("val", "no index")]
)
def test_a_mistake_is_one_line_and_makes_nothing(
    split: str, mistake: str, s3: Gateway, shards: Shards, recipe: Path, tmp_path: Path
) -> None:
    variables, url, line = MISTAKES[mistake]
    bare = f"{shards.bucket}/bare/mine.tar"
    storage(s3).write(bare, (shards.disk / "train/train-000000.tar").read_bytes())
    url = url.replace("BUCKET", shards.bucket)
    done = train(
        *(recipe, f"run={tmp_path}/run", f"data.{split}={url}", *shards.given),
        environment=shards.environment | variables,
    )
    assert line.replace("BUCKET", shards.bucket) in done.error
    assert "wrongsecret" not in done.err + done.out
    assert not list(tmp_path.iterdir())


def test_a_gateway_that_is_not_there_is_one_line(
    shards: Shards, recipe: Path, tmp_path: Path
) -> None:
    words = (recipe, f"run={tmp_path}/run", f"data.train={shards.bucket}/train")
    line = train(
        *words, "data.s3.endpoint=http://127.0.0.1:9", environment=shards.environment
    ).error
    assert "http://127.0.0.1:9 cannot be reached" in line
    assert not list(tmp_path.iterdir())


def test_what_is_built_on_the_way_is_built_on_disk(
    shards: Shards, recipe: Path, tmp_path: Path
) -> None:
    given = [recipe, "data.build=scenes", "stages.0.length=2 steps", *shards.given]
    given += [f"run={tmp_path}/run", "data.val=null"]
    new = f"{shards.bucket.replace('scenes', 'new')}"
    done = train(*given, f"data.train={new}/train", environment=shards.environment)
    assert done.error == (
        f"{new}/train has no shards, and data.build writes to local disks only: run "
        f"`python -m shards build scenes --to {new}`"
    )
    assert not list(tmp_path.iterdir())
    there = train(*given, f"data.train={shards.bucket}/train", environment=shards.environment)
    assert there.code == 0, there.err
