"""CIRR in its published layout."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from shards.source import Composed, Split, find_source
from xmodal.data.manifest import read_manifest
from xmodal.errors import UserError

Run = Callable[..., subprocess.CompletedProcess[str]]


def splits(root: Path) -> dict[str, Split]:
    return {name: make() for name, make in find_source("cirr").read(root, {}).items()}


def names_of(split: str, prefix: str) -> dict[str, str]:
    folder = f"./{prefix}/34" if split == "train" else f"./{prefix}"
    return {f"{prefix}-{n}-0-img1": f"{folder}/{prefix}-{n}-0-img1.png" for n in range(7)}


@pytest.fixture
def cirr(tmp_path: Path, encode: Callable[..., bytes]) -> Path:
    for folder in ("captions", "image_splits"):
        (tmp_path / folder).mkdir()
    for split, prefix in (("train", "train"), ("val", "dev")):
        places = names_of(split, prefix)
        names = list(places)
        query = {
            "pairid": 12060,
            "reference": names[0],
            "target_hard": names[3],
            "target_soft": {names[3]: 1.0, names[4]: 0.5, names[0]: -1.0},
            "caption": "add a woman  hugging   it ",
            "img_set": {"id": 1, "members": names[:6], "reference_rank": 0, "target_rank": 3},
        }
        (tmp_path / f"captions/cap.rc2.{split}.json").write_text(json.dumps([query]))
        (tmp_path / f"image_splits/split.rc2.{split}.json").write_text(json.dumps(places))
        for number, place in enumerate(places.values()):
            picture = tmp_path / "img_raw" / place
            picture.parent.mkdir(parents=True, exist_ok=True)
            picture.write_bytes(encode("PNG", size=(40, 30 + number)))
    return tmp_path


def test_queries_keep_what_their_recalls_need(cirr: Path) -> None:
    found = splits(cirr)
    assert list(found) == ["train", "val", "val_gallery"]
    (query,) = found["val"].items
    assert (query.source_id, query.target_id) == ("dev-0-0-img1", "dev-3-0-img1")
    assert query.modification == "add a woman hugging it"
    assert query.details == {
        "pairid": 12060,
        "members": [f"dev-{n}-0-img1" for n in range(6)],
        "target_soft": {"dev-3-0-img1": 1.0, "dev-4-0-img1": 0.5, "dev-0-0-img1": -1.0},
    }
    assert found["train"].items[0].source == cirr / "img_raw/train/34/train-0-0-img1.png"
    assert [item.image_id for item in found["val_gallery"].items] == list(names_of("val", "dev"))
    assert found["val_gallery"].gallery


def add_test1(root: Path, encode: Callable[..., bytes]) -> None:
    places = names_of("test1", "test1")
    names = list(places)
    queries = [
        {
            "pairid": pairid,
            "reference": names[pairid],
            "caption": "mirror the image",
            "img_set": {"id": 1, "members": names[:6], "reference_rank": 3},
        }
        for pairid in (0, 1)
    ]
    (root / "captions/cap.rc2.test1.json").write_text(json.dumps(queries))
    (root / "image_splits/split.rc2.test1.json").write_text(json.dumps(places))
    for number, place in enumerate(places.values()):
        picture = root / "img_raw" / place
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(encode("PNG", size=(40, 30 + number)))


def test_the_targets_of_test1_are_not_published(
    cirr: Path, run: Run, encode: Callable[..., bytes]
) -> None:
    add_test1(cirr, encode)
    found = splits(cirr)
    assert list(found) == ["train", "val", "val_gallery", "test1", "test1_gallery"]
    first, _ = found["test1"].items
    assert isinstance(first, Composed)
    assert first.record == {
        "pairid": 0,
        "members": [f"test1-{n}-0-img1" for n in range(6)],
        "modification": "mirror the image",
        "source_id": "test1-0-0-img1",
    }
    assert list(first.pictures) == ["source."]
    arguments = ("build", "cirr", "--from", cirr, "--to", cirr / "to")
    run(*arguments, "--split", "test1")
    run("check", cirr / "to" / "test1")
    assert read_manifest(str(cirr / "to" / "test1")).num_samples == 2


def test_built_and_checked(cirr: Path, run: Run) -> None:
    run("build", "cirr", "--from", cirr, "--to", cirr / "to")
    for name, count in (("train", 1), ("val", 1), ("val_gallery", 7)):
        run("check", cirr / "to" / name)
        assert read_manifest(str(cirr / "to" / name)).num_samples == count


def test_what_is_wrong_is_named(cirr: Path) -> None:
    def fails() -> str:
        with pytest.raises(UserError) as caught:
            splits(cirr)
        return str(caught.value)

    places = cirr / "image_splits/split.rc2.val.json"
    places.write_text('{"dev-0-0-img1": "./dev/dev-0-0-img1.png"}')
    assert "cap.rc2.val.json is not in CIRR's format (no 'dev-3-0-img1')" in fails()
    places.write_text("[1]")
    assert f"{places} does not map photographs to their files" in fails()
    captions = cirr / "captions/cap.rc2.train.json"
    captions.write_text('[{"pairid": 1}]')
    assert f"{captions} is not in CIRR's format (no 'reference')" in fails()
    captions.unlink()
    assert "has no captions/cap.rc2.train.json" in fails()
    (cirr / "img_raw").rename(cirr / "raw")
    assert "has no img_raw; `python -m shards sources cirr`" in fails()
