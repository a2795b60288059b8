"""Fashion IQ in its published layout."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from shards.source import Split, find_source
from xmodal.data.manifest import read_manifest
from xmodal.errors import UserError

Run = Callable[..., subprocess.CompletedProcess[str]]
CATEGORIES = ("dress", "shirt", "toptee")


def splits(root: Path) -> dict[str, Split]:
    return {name: make() for name, make in find_source("fashion_iq").read(root, {}).items()}


def queries(category: str, split: str) -> list[dict]:
    names = [f"{category}-{split}-{n}" for n in range(3)]
    texts = [[" is red", "has  no sleeves "], ["", "is longer"], ["is shiny", "  "]]
    return [
        {"candidate": names[n], "target": names[(n + 1) % 3], "captions": texts[n]}
        for n in range(3)
    ]


@pytest.fixture
def fashion_iq(tmp_path: Path, encode: Callable[..., bytes]) -> Path:
    for folder in ("captions", "image_splits", "images"):
        (tmp_path / folder).mkdir()
    for category in CATEGORIES:
        for split in ("train", "val", "test"):
            asked = queries(category, split)
            if split == "test":
                asked = [{key: q[key] for key in ("candidate", "captions")} for q in asked]
            (tmp_path / f"captions/cap.{category}.{split}.json").write_text(json.dumps(asked))
            names = [f"{category}-{split}-{n}" for n in range(4)]
            (tmp_path / f"image_splits/split.{category}.{split}.json").write_text(json.dumps(names))
            for number, name in enumerate(names):
                (tmp_path / f"images/{name}.jpg").write_bytes(encode(size=(40, 30 + number)))
    return tmp_path


def test_captions_are_joined_and_categories_apart(fashion_iq: Path) -> None:
    found = splits(fashion_iq)
    assert list(found) == [
        "train",
        *(f"val_{category}{end}" for category in CATEGORIES for end in ("", "_gallery")),
    ]
    assert len(found["train"].items) == 9
    assert [
        (q.source_id, q.modification, q.target_id, q.details) for q in found["val_shirt"].items
    ] == [
        (
            "shirt-val-0",
            "is red and it has  no sleeves",
            "shirt-val-1",
            {"category": "shirt", "captions": ["is red", "has  no sleeves"]},
        ),
        (
            "shirt-val-1",
            "is longer",
            "shirt-val-2",
            {"category": "shirt", "captions": ["is longer"]},
        ),
        ("shirt-val-2", "is shiny", "shirt-val-0", {"category": "shirt", "captions": ["is shiny"]}),
    ]
    gallery = found["val_dress_gallery"]
    assert [(item.image_id, item.labels) for item in gallery.items] == [
        (f"dress-val-{n}", ["dress"]) for n in range(4)
    ]
    assert gallery.items[3].picture == fashion_iq / "images/dress-val-3.jpg"


def test_built_where_photographs_are_gone(fashion_iq: Path, run: Run) -> None:
    (fashion_iq / "images").rename(fashion_iq / "resized_images")
    (fashion_iq / "resized_images/dress-val-0.jpg").unlink()
    run("build", "fashion_iq", "--from", fashion_iq, "--to", fashion_iq / "to")
    counts = {
        folder.name: read_manifest(str(folder)).num_samples
        for folder in (fashion_iq / "to").iterdir()
    }
    assert counts == {
        "train": 9, "val_dress": 1, "val_dress_gallery": 3, "val_shirt": 3,
        "val_shirt_gallery": 4, "val_toptee": 3, "val_toptee_gallery": 4,
    }  # fmt: skip
    for name in ("val_dress", "val_dress_gallery"):
        run("check", fashion_iq / "to" / name)


def test_what_is_wrong_is_named(fashion_iq: Path) -> None:
    def fails() -> str:
        with pytest.raises(UserError) as caught:
            splits(fashion_iq)
        return str(caught.value)

    gallery = fashion_iq / "image_splits/split.dress.val.json"
    gallery.write_text('{"a": 1}')
    assert f"{gallery} is no list of photographs" in fails()
    captions = fashion_iq / "captions/cap.shirt.train.json"
    captions.write_text((fashion_iq / "captions/cap.shirt.test.json").read_text())
    assert f"{captions} is not in Fashion IQ's format (no 'target')" in fails()
    captions.unlink()
    assert "has no captions/cap.shirt.train.json" in fails()
    (fashion_iq / "images").rename(fashion_iq / "pictures")
    assert "has no images or resized_images or all_imgs" in fails()
