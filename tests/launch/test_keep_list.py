"""Runs on a keep-list: `launch/train.py` sees the batches of a set rebuilt with its samples."""

from collections.abc import Sequence
from functools import partial
from itertools import groupby
from pathlib import Path

import pytest

from shards.build import build
from tests.commands import train
from tests.keep_lists import Named, write_keep_list
from tests.run_folders import STEP, note_ids, noted_ids, steps
from tests.shard_sets import write_shards
from xmodal.commands.curate import read_arguments
from xmodal.data.manifest import Manifest, read_manifest
from xmodal.data.reader import SampleReader

KILLED = f"{STEP}:6"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Shards of 40 and 30 scenes."""
    folder = tmp_path_factory.mktemp("shards")
    build("scenes", folder, splits=["train"], options={"train": 150}, samples_per_shard=40)
    return read_manifest(folder / "train")


@pytest.fixture(scope="module")
def samples(whole: Manifest) -> list[Named]:
    """Two of three samples, and none of the second shard."""
    named = [(shard.name, one.key) for shard in whole.shards for one in whole.index(shard)]
    return [one for n, one in enumerate(named) if n % 3 and one[0] != whole.shards[1].name]


@pytest.fixture(scope="module")
def rebuilt(
    whole: Manifest, samples: list[Named], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of shards of those samples alone."""
    reader = SampleReader(whole)
    read = [reader[number] for number in range(len(reader))]
    kept = [one for one in read if (one.shard.rpartition("/")[2], one.key) in set(samples)]
    folder = tmp_path_factory.mktemp("rebuilt")
    shards = [
        {one.key: {name: bytes(data or b"") for name, data in one.files.items()} for one in group}
        for _, group in groupby(kept, lambda one: one.shard)
    ]
    write_shards(folder, shards)
    return folder


def words(recipe: Path, run: Path, data: str) -> list[object]:
    return [
        *(recipe, f"run={run}", f"data.train={data}", "data.val=null"),
        *("data.lanes=8", "data.window=4", "data.crop=[0.5, 1]", "data.flip=true"),
        *("stages.0.length=8 steps", "checkpoints.every=2 steps"),
    ]


def kept(whole: Manifest, keep: Path) -> str:
    return f"{{url: {whole.url}, keep: {keep}}}"


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_on_a_keep_list_killed_and_resumed_is_that_on_a_rebuilt_set(
    recipe: Path,
    whole: Manifest,
    samples: list[Named],
    rebuilt: Path,
    ranks: int,
    tmp_path: Path,
) -> None:
    keep = write_keep_list(tmp_path / "keep.parquet", samples)
    done = train(*words(recipe, tmp_path / "rebuilt", str(rebuilt)), ranks=ranks)
    assert done.code == 0, done.err
    given = words(recipe, tmp_path / "view", kept(whole, keep))
    assert train(*given, ranks=ranks, killed_at=KILLED).code == -9

    write_keep_list(keep, samples[:-1])
    line = train(*given, ranks=ranks).error
    counts = f"{len(samples) - 1} samples, {len(samples)} before"
    assert f"({whole.url}: its keep-list has changed, {counts}); restore it, " in line
    keep.unlink()
    assert train(*given).error == f"keep-list {keep} is missing: restore it, or name another file"
    write_keep_list(keep, samples[::-1])

    resumed = train(*given, ranks=ranks)
    assert resumed.code == 0, resumed.err
    assert "Resuming from step-4 of 8" in resumed.out
    assert steps(tmp_path / "view") == steps(tmp_path / "rebuilt")
    assert len(steps(tmp_path / "view")) == 8


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [(2, 2), (2, 1), (1, 2)])
def test_weighted_samples_come_the_same_on_any_ranks_and_resumed(
    recipe: Path, whole: Manifest, samples: list[Named], ranks: Sequence[int], tmp_path: Path
) -> None:
    weights = [(0.3, 1, 2.5)[number % 3] for number in range(len(samples))]
    keep = write_keep_list(tmp_path / "keep.parquet", samples, weights)
    data, ids, resumed = kept(whole, keep), dict[int, list[int]](), dict[int, list[int]]()
    for found, run, count, killed_at in (
        (ids, "alone", 1, ""),
        (resumed, "resumed", ranks[0], KILLED),
        (resumed, "resumed", ranks[1], ""),
    ):
        notes = tmp_path / f"{run}{killed_at}"
        notes.mkdir()
        given, before = (
            words(recipe, tmp_path / "runs" / run, data),
            {STEP: partial(note_ids, notes)},
        )
        done = train(*given, ranks=count, killed_at=killed_at, before=before)
        assert done.code == (-9 if killed_at else 0), done.err
        found |= noted_ids(notes)
    assert ids == resumed
    assert list(ids) == list(range(1, 9))


def test_a_list_of_datacomp_names_the_command_that_converts_it(
    recipe: Path, whole: Manifest, tmp_path: Path
) -> None:
    keep = tmp_path / "uids.npy"
    keep.touch()
    line = train(*words(recipe, tmp_path / "run", kept(whole, keep))).error
    command = f"keep-list EMBEDDINGS --from {keep} --to {keep.with_suffix('')}"
    assert f"run `python launch/curate.py {command}`" in line
    assert read_arguments(command.split()).source == str(keep)
    assert not (tmp_path / "run").exists()


def test_unknown_samples_are_logged_and_a_list_without_others_is_refused(
    recipe: Path, whole: Manifest, samples: list[Named], tmp_path: Path
) -> None:
    keep = write_keep_list(tmp_path / "keep.parquet", [("no.tar", "a")])
    given = words(recipe, tmp_path / "run", kept(whole, keep))
    assert train(*given).error.startswith(f"keep-list {keep}: none of its 1 samples are in ")
    write_keep_list(keep, [*samples, ("no.tar", "a")])
    done = train(*given, "stages.0.length=1 steps")
    assert done.code == 0, done.err
    assert f"keep-list {keep}: only {len(samples)} of its {len(samples) + 1} samples" in done.out
