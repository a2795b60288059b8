"""CSS from its pickle and its rendered scenes."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.source import Split, find_source
from xmodal.data.manifest import read_manifest
from xmodal.errors import UserError

Run = Callable[..., subprocess.CompletedProcess[str]]
NAME = "css_toy_dataset_novel2_small.dup.npy"


def splits(root: Path) -> dict[str, Split]:
    return {name: make() for name, make in find_source("css").read(root, {}).items()}


def fails(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        splits(root)
    return str(caught.value)


def document() -> dict[str, Any]:
    def things(count: int) -> list:
        return [[{"shape": "circle", "color": "red", "size": "large", "pos": (0.1, 0.5)}]] * count

    return {
        "train": {
            "mods": [
                {"from": [0, 1], "to": [1, 2], "to_str": "make red circle blue"},
                {"from": np.array([2]), "to": np.array([0]), "to_str": "remove circle"},
            ],
            "objects_img": things(3),
        },
        "test": {
            "mods": [{"from": [0, 3], "to": [2, 2], "to_str": "add red object"}],
            "objects_img": things(4),
            "labels": [5, 5, 9, 9],
        },
    }


def save(root: Path, value: object) -> None:
    np.save(root / NAME, value, allow_pickle=True)  # type: ignore[arg-type]


@pytest.fixture
def css(tmp_path: Path, encode: Callable[..., bytes]) -> Path:
    (tmp_path / "images").mkdir()
    for split, count in (("train", 3), ("test", 4)):
        for number in range(count):
            picture = tmp_path / f"images/css_{split}_{number:06d}.png"
            picture.write_bytes(encode("PNG", colour=f"hsl({number * 60},90%,50%)"))
    save(tmp_path, document())
    return tmp_path


def test_each_published_pair_is_a_query(css: Path) -> None:
    found = splits(css)
    assert list(found) == ["train", "test", "test_gallery"]
    assert [
        (q.source_id, q.modification, q.target_id, q.details) for q in found["train"].items
    ] == [
        ("css_train_000000", "make red circle blue", "css_train_000001", {}),
        ("css_train_000001", "make red circle blue", "css_train_000002", {}),
        ("css_train_000002", "remove circle", "css_train_000000", {}),
    ]
    assert found["train"].items[0].target == css / "images/css_train_000001.png"


def test_scenes_of_one_label_are_all_right(css: Path) -> None:
    test = splits(css)["test"]
    assert [query.source_id for query in test.items] == ["css_test_000000", "css_test_000003"]
    for query in test.items:
        assert query.details == {"target_ids": ["css_test_000002", "css_test_000003"]}


def test_the_gallery_is_all_scenes_of_test(css: Path) -> None:
    gallery = splits(css)["test_gallery"]
    assert gallery.gallery
    assert [(item.image_id, item.labels, item.captions) for item in gallery.items] == [
        (f"css_test_{number:06d}", [label], []) for number, label in enumerate("5599")
    ]


def test_built_and_checked(css: Path, run: Run) -> None:
    run("build", "css", "--from", css, "--to", css / "to", "--workers", 1)
    for name, count in (("train", 3), ("test", 2), ("test_gallery", 4)):
        run("check", css / "to" / name)
        assert read_manifest(str(css / "to" / name)).num_samples == count


def test_what_is_wrong_is_named(css: Path) -> None:
    wrong = document()
    wrong["test"]["mods"][0]["to"] = [2, 4]
    save(css, wrong)
    assert f"{css / NAME} names scenes of test other than the 4 it has" in fails(css)
    wrong["train"]["mods"][0]["to"] = [2]
    save(css, wrong)
    assert "is not CSS's (no pairs of scenes" in fails(css)
    save(css, {"train": {}})
    assert "is not CSS's (no 'mods')" in fails(css)
    save(css, {"train": 1})
    assert "is not CSS's" in fails(css)
    (css / NAME).write_bytes(b"\x93NUMPY")
    assert "damaged" in fails(css)
    (css / NAME).unlink()
    assert f"{css} has no {NAME}; `python -m shards" in fails(css)
