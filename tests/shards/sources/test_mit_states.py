"""MIT-States in its published layout."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from shards.source import Split, find_source
from xmodal.data.manifest import read_manifest
from xmodal.errors import UserError

Run = Callable[..., subprocess.CompletedProcess[str]]

# So many photographs; castle is one of the things of test.
FOLDERS = {
    "old tower": 2, "new tower": 3, "ruined tower": 1, "ripe apple": 1,
    "old castle": 1, "new castle": 2,
    "adj tower": 1, "adj castle": 1, "tower": 1,
}  # fmt: skip


def splits(root: Path, **options: int) -> dict[str, Split]:
    return {name: make() for name, make in find_source("mit_states").read(root, options).items()}


@pytest.fixture
def mit_states(tmp_path: Path, encode: Callable[..., bytes]) -> Path:
    for number, (name, count) in enumerate(FOLDERS.items()):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(count):
            picture = tmp_path / "images" / name / f"{index}.jpg"
            picture.write_bytes(encode(size=(40 + number, 30 + index)))
    return tmp_path


def test_training_pairs_have_other_states(mit_states: Path) -> None:
    train = splits(mit_states, pairs=5)["train"]
    asked = {}
    for query in train.items:
        asked.setdefault(query.source_id, []).append(query.modification)
        state, thing = query.target_id.split("/")[0].split()
        assert thing == query.source_id.split("/")[0].split()[1] == "tower"
        assert query.modification == state
        assert query.target_id != query.source_id
        assert query.details == {}
    # Each state once, its own too where there is another photograph of it.
    assert {source: sorted(states) for source, states in asked.items()} == {
        **{f"old tower/{n}.jpg": ["new", "old", "ruined"] for n in range(2)},
        **{f"new tower/{n}.jpg": ["new", "old", "ruined"] for n in range(3)},
        "ruined tower/0.jpg": ["new", "old"],
    }


def test_so_many_pairs_by_seed(mit_states: Path) -> None:
    one = splits(mit_states, pairs=1)["train"].items
    assert one == splits(mit_states, pairs=1)["train"].items
    assert len(one) <= 6
    assert len({str(splits(mit_states, seed=seed)["train"].items) for seed in range(5)}) > 1
    with pytest.raises(UserError, match="pairs=0"):
        splits(mit_states, pairs=0)


def test_test_asks_each_photograph_for_each_other_state(mit_states: Path) -> None:
    found = splits(mit_states)["test"].items
    new = ["new castle/0.jpg", "new castle/1.jpg"]
    assert [(q.source_id, q.modification, q.details["target_ids"]) for q in found] == [
        ("new castle/0.jpg", "old", ["old castle/0.jpg"]),
        ("new castle/1.jpg", "old", ["old castle/0.jpg"]),
        ("old castle/0.jpg", "new", new),
    ]
    assert all(query.target_id in query.details["target_ids"] for query in found)


def test_the_gallery(mit_states: Path) -> None:
    gallery = splits(mit_states)["test_gallery"]
    assert {item.image_id: (item.captions, item.labels) for item in gallery.items} == {
        "new castle/0.jpg": (["new castle"], ["new", "castle"]),
        "new castle/1.jpg": (["new castle"], ["new", "castle"]),
        "old castle/0.jpg": (["old castle"], ["old", "castle"]),
    }


def test_dirt_is_counted(mit_states: Path, run: Run) -> None:
    (mit_states / "images/old castle/Thumbs.db").write_bytes(b"x")
    (mit_states / "images/new castle/1.jpg").write_bytes(b"<html>")
    (mit_states / "images/.DS_Store").write_bytes(b"x")
    (mit_states / "images/read me.txt").write_bytes(b"x")
    assert splits(mit_states)["test"].skipped == [("old castle/Thumbs.db", "no .jpg", "")]
    done = run("build", "mit_states", "--from", mit_states, "--to", mit_states / "to")
    assert "1 no .jpg (old castle/Thumbs.db)" in done.stdout
    assert "1 image does not decode (not an image) (new castle/1.jpg)" in done.stdout
    assert read_manifest(str(mit_states / "to/test_gallery")).num_samples == 2
    for name in ("train", "test", "test_gallery"):
        run("check", mit_states / "to" / name)


def test_without_images(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no images"):
        splits(tmp_path)
