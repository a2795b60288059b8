"""Wikipedia's published features, paired with the lists row by row."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from shards.source import Split, find_source
from xmodal.data.manifest import read_manifest
from xmodal.errors import UserError

FEATURES: dict[str, Any] = {
    "I_tr": np.arange(6.0).reshape(3, 2),
    "I_te": np.arange(4.0).reshape(2, 2),
    "T_tr": 10 + np.arange(9.0).reshape(3, 3),
    "T_te": 20 + np.arange(6.0).reshape(2, 3),
}


def splits(root: Path) -> dict[str, Split]:
    source = find_source("wikipedia_features")
    return {name: make() for name, make in source.read(root, {}).items()}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    savemat(tmp_path / "raw_features.mat", FEATURES)
    (tmp_path / "trainset_txt_img_cat.list").write_text("a-1\ti1\t1\nb-1\ti2\t10\nc-1\ti2\t3\n")
    (tmp_path / "testset_txt_img_cat.list").write_text("d-1\ti3\t2\ne-1\ti4\t2\n")
    return tmp_path


def test_rows_go_with_the_lines_of_the_lists(root: Path) -> None:
    found = splits(root)
    assert [(item.image_id, item.labels) for item in found["train"].items] == [
        *(("a-1", ["art"]), ("b-1", ["warfare"]), ("c-1", ["geography"])),
    ]
    second = found["train"].items[1]
    assert second.pictures == {}
    assert second.features["image."].tolist() == [2, 3]
    assert second.features["text."].tolist() == [[13, 14, 15]]
    assert [item.image_id for item in found["test"].items] == ["d-1", "e-1"]
    assert found["test"].items[0].features["text."].tolist() == [[20, 21, 22]]


def test_the_built_shards_have_nothing_broken(root: Path, tmp_path: Path, run: Callable) -> None:
    run("build", "wikipedia_features", "--from", root, "--to", tmp_path / "to")
    assert read_manifest(tmp_path / "to/train").num_samples == 3
    run("check", tmp_path / "to/train")
    run("show", tmp_path / "to/train")


@pytest.mark.parametrize(
    ("features", "says"),
    [
        (FEATURES | {"T_tr": np.ones((4, 3))}, "4 rows of T_tr, but trainset_txt_img_cat.list 3"),
        ({"I_tr": 1}, "raw_features.mat has no T_tr: it has I_tr"),
    ],
)
def test_features_of_something_else_are_an_error(features: dict, says: str, root: Path) -> None:
    savemat(root / "raw_features.mat", features)
    with pytest.raises(UserError, match=says):
        splits(root)


@pytest.mark.parametrize("data", [b"", b"MATLAB 5.0", b"\0" * 300, b"x" * 300])
def test_a_broken_file_is_an_error(data: bytes, root: Path) -> None:
    (root / "raw_features.mat").write_bytes(data)
    with pytest.raises(UserError, match=r"raw_features.mat is no MATLAB file, or is truncated"):
        splits(root)


def test_the_format_that_cannot_be_read_is_named(root: Path) -> None:
    header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    (root / "raw_features.mat").write_bytes(header)
    with pytest.raises(UserError, match=r"format 7\.3: save it with -v7"):
        splits(root)
