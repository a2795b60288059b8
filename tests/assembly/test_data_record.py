"""Data that changed under a run: refused with what changed, unless accepted by name."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.keep_lists import write_keep_list
from tests.recipes import recipe_of
from tests.shard_sets import Members, numbered, write_shards
from xmodal.assembly.data_record import DataRecord, Resumed
from xmodal.data.digests import Digests
from xmodal.data.keep_list import keep_only
from xmodal.data.manifest import Manifest, read_manifest, write_manifest
from xmodal.errors import UserError
from xmodal.runs.progress import Progress

SAMPLES = list(numbered(30).items())
STAGE = {"length": "4 epochs"}  # of 20 samples in batches of 4: 20 steps


def shards(folder: Path, *sizes: int) -> Manifest:
    """Shards of so many samples each."""
    parts: list[Mapping[str, Members]] = []
    for size in sizes:
        start = sum(map(len, parts))
        parts.append(dict(SAMPLES[start : start + size]))
    return write_shards(folder, parts)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder that was begun on shards of 10 and 10 samples."""
    folder = tmp_path / "run"
    folder.mkdir()
    train = shards(tmp_path / "set", 10, 10)
    DataRecord({"data.train": [train], "data.val": [shards(tmp_path / "val", 3)]}).write(folder)
    return folder


def resume(run: Path, step: int = 5, **changes: object) -> Resumed:
    folder = run.parent
    recipe = recipe_of(folder, stage=STAGE, data__batch_size=4, **changes)
    train, val = read_manifest(folder / "set"), read_manifest(folder / "val")
    record = DataRecord({"data.train": [train], "data.val": [val]})
    return record.resume(run, recipe, Progress(step=step))


def refusal(run: Path) -> str:
    with pytest.raises(UserError) as caught:
        resume(run)
    line = str(caught.value)
    fingerprint = read_manifest(run.parent / "set").fingerprint
    assert line.startswith(f"data.train changed since step 5 of run={run} ({run.parent / 'set'}: ")
    assert line.endswith(f"by data.accept={fingerprint}")
    return line.partition("set: ")[2].partition(");")[0]


def test_the_same_data_are_resumed_without_a_word(run: Path) -> None:
    assert resume(run) == Resumed(20, [])
    shards(run.parent / "set", 10, 10)  # written anew, the same
    assert resume(run) == Resumed(20, [])


def test_what_changed_is_named(run: Path) -> None:
    folder = run.parent / "set"
    shards(folder, 10, 10, 5)
    assert refusal(run) == "1 shard added (set-000002.tar), 25 samples, 20 before"
    shards(folder, 10)
    assert refusal(run) == "1 shard removed (set-000001.tar), 10 samples, 20 before"
    shards(folder, 10, 9)
    assert refusal(run) == "1 shard changed (set-000001.tar), 19 samples, 20 before"
    shards(folder, 11, 9)
    assert refusal(run) == "2 shards changed (set-000000.tar, set-000001.tar)"
    shards(folder, 10, 10)
    write_manifest(folder, {f"set-{number:06d}.tar": 10 for number in (1, 0)})
    assert refusal(run) == "its shards come in another order"


@pytest.mark.parametrize("kind", ["headers", "sha256"])
def test_digests_count_where_they_are_known_then_and_now(run: Path, kind: str) -> None:
    folder = run.parent / "set"
    names = {f"set-{number:06d}.tar": 10 for number in range(2)}
    for digest in ("a", "b"):  # known now, and not when the run began: the same as far as is known
        write_manifest(folder, names, digests={"set-000001.tar": Digests(**{kind: digest})})
        assert resume(run).lines == []
    DataRecord({"data.train": [read_manifest(folder)]}).write(run)
    assert resume(run).lines == []
    write_manifest(folder, names, digests={"set-000001.tar": Digests(**{kind: "c"})})
    assert refusal(run) == "1 shard changed (set-000001.tar)"


def test_what_the_recipe_accepts_is_resumed_and_its_consequences_logged(run: Path) -> None:
    grown = shards(run.parent / "set", 10, 10, 10)
    accepted = resume(run, data__accept=grown.fingerprint)
    assert accepted.epoch == 30
    first, second = accepted.lines
    assert "1 shard added (set-000002.tar), 30 samples, 20 before" in first
    assert second.startswith("from step 5 on samples come in another order: it is epoch 0.7 ")
    assert second.endswith("; 30 steps in all, 20 before, and schedules follow")
    shards(run.parent / "set", 10, 10, 9)
    with pytest.raises(UserError, match="1 shard added"):
        resume(run, data__accept=grown.fingerprint)


def test_a_length_that_does_not_change_is_logged_too(run: Path) -> None:
    grown = shards(run.parent / "set", 10, 10, 10)
    line = resume(run, data__accept=grown.fingerprint, data__epoch=20).lines[1]
    assert line.endswith("; steps (20) and schedules stay as they were")


def test_a_finished_run_stays_finished(run: Path) -> None:
    shards(run.parent / "set", 10, 10, 10)
    resumed = resume(run, step=20)
    assert resumed.epoch == 20
    assert resumed.lines[0].endswith("its results are of the data before")


def test_before_the_first_checkpoint_data_may_change(run: Path) -> None:
    shards(run.parent / "set", 10, 10, 10)
    assert resume(run, step=0) == Resumed(30, [])


def test_other_data_to_validate_on_are_logged(run: Path) -> None:
    shards(run.parent / "val", 4)
    (line,) = resume(run).lines
    assert line.startswith("warning: data.val changed since step 5 (")
    assert line.endswith("metrics before and after it are not comparable")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"data.train": 1}', '{"data.train": [{}]}', "["])
def test_a_run_of_before_or_a_damaged_record_is_logged(run: Path, text: str) -> None:
    (run / "data.json").write_text(text)
    assert resume(run).lines == ["data.json is missing: changes of the data cannot be detected"]
    (run / "data.json").unlink()
    assert resume(run).lines == ["data.json is missing: changes of the data cannot be detected"]


def test_the_record_is_plain_json(run: Path) -> None:
    sets = json.loads((run / "data.json").read_text())
    fingerprint = read_manifest(run.parent / "set").fingerprint
    assert sets["data.train"][0]["fingerprint"] == fingerprint
    assert list(sets) == ["data.train", "data.val"]


def kept(run: Path, weights: list[float] | None = None, first: int = 0) -> Manifest:
    """The view of the training shards that has 12 of their 20 samples."""
    named = [(f"set-{n // 10:06d}.tar", SAMPLES[n][0]) for n in range(first, first + 12)]
    path = write_keep_list(run.parent / "keep.parquet", named, weights)
    return keep_only(read_manifest(run.parent / "set"), str(path))


def resume_kept(run: Path, view: Manifest, **changes: object) -> Resumed:
    recipe = recipe_of(run.parent, stage=STAGE, data__batch_size=4, **changes)
    return DataRecord({"data.train": [view]}).resume(run, recipe, Progress(step=5))


def test_other_samples_or_weights_of_a_keep_list_are_other_data(run: Path) -> None:
    DataRecord({"data.train": [kept(run)]}).write(run)
    assert resume_kept(run, kept(run)) == Resumed(12, [])
    folder = run.parent / "set"
    with pytest.raises(UserError, match=rf"\({folder}: its keep-list has changed\);"):
        resume_kept(run, kept(run, first=1))
    weighted = kept(run, [2.0] * 11 + [8.0])
    said = rf"\({folder}: its keep-list has changed, 30 samples, 12 before\)"
    with pytest.raises(UserError, match=said):
        resume_kept(run, weighted)
    accepted = resume_kept(run, weighted, data__accept=weighted.fingerprint)
    assert accepted.epoch == 30
    assert accepted.lines[1].endswith("; 30 steps in all, 12 before, and schedules follow")
    DataRecord({"data.train": [weighted]}).write(run)
    assert resume_kept(run, kept(run, [2.0] * 11 + [8.0])) == Resumed(30, [])


def test_a_record_from_before_keep_lists_is_resumed(run: Path) -> None:
    sets = json.loads((run / "data.json").read_text())
    for one in (*sets["data.train"], *sets["data.val"]):
        del one["kept"], one["epoch_samples"]
    (run / "data.json").write_text(json.dumps(sets))
    assert resume(run) == Resumed(20, [])
    shards(run.parent / "set", 10, 10, 5)
    assert refusal(run) == "1 shard added (set-000002.tar), 25 samples, 20 before"
