"""XMedia's published features, paired within their classes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat
from scipy.sparse import csc_matrix

from shards.source import Split, find_source
from xmodal.data.manifest import read_manifest
from xmodal.errors import UserError


def rows(count: int, size: int, first: int) -> np.ndarray:
    """Rows that begin with `first`, `first` + 1, …"""
    return first + np.arange(count)[:, None] + np.linspace(0, 0.5, size)


def classes(*numbers: int) -> np.ndarray:
    return np.array([numbers], "u1").T


def features(short: str) -> dict[str, Any]:
    return {
        f"I_{short}_CNN": rows(4, 5, 100).astype("f4"),
        f"I_{short}": rows(4, 2, 200),
        f"T_{short}_BOW": csc_matrix(rows(4, 3, 300)),
        f"A_{short}": rows(2, 2, 400),
        f"d3_{short}": rows(1, 2, 500),
        f"{short}ImgCat": classes(1, 1, 2, 20),
        f"{short}TxtCat": classes(1, 1, 2, 20),
        f"{short}AudCat": classes(20, 1),
        f"{short}3dCat" if short == "te" else "tr3dCat": classes(2),
    }


def splits(root: Path, **options: str) -> dict[str, Split]:
    return {name: make() for name, make in find_source("xmedia").read(root, options).items()}


def firsts(split: Split) -> list[tuple[float, float]]:
    return [
        (item.features["image."][0], item.features["text."][0, 0])  # type: ignore[union-attr]
        for item in split.items
    ]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    savemat(tmp_path / "XMediaFeatures.mat", features("tr") | features("te"))
    return tmp_path


def test_images_go_with_texts_row_by_row(root: Path) -> None:
    train, test = splits(root).values()
    assert firsts(train) == [(100, 300), (101, 301), (102, 302), (103, 303)]
    assert [item.labels for item in train.items] == [["1"], ["1"], ["2"], ["20"]]
    assert [item.image_id for item in test.items] == [f"test-0000{n}" for n in range(4)]
    assert train.items[0].features["image."].shape == (5,)
    assert train.items[0].features["text."].shape == (1, 3)
    assert not train.skipped


def test_rows_in_another_order_go_within_their_class(root: Path) -> None:
    document = features("tr") | features("te") | {"trTxtCat": classes(2, 1, 20, 1)}
    savemat(root / "XMediaFeatures.mat", document)
    assert firsts(splits(root)["train"]) == [(100, 301), (101, 303), (102, 300), (103, 302)]


def test_other_kinds_stand_for_image_and_text(root: Path) -> None:
    train = splits(root, image="I", text="A")["train"]
    assert firsts(train) == [(200, 401), (203, 400)]
    cause = "no partner of its class"
    assert train.skipped == [("I_tr row 1", cause, "class 1"), ("I_tr row 2", cause, "class 2")]
    train = splits(root, image="d3", text="A")["train"]
    assert train.items == []
    assert [name for name, _, _ in train.skipped] == ["d3_tr row 0", "A_tr row 0", "A_tr row 1"]


def test_the_built_shards_have_nothing_broken(root: Path, tmp_path: Path, run: Callable) -> None:
    done = run("build", "xmedia", "--from", root, "--to", tmp_path / "to", "image=I", "text=A")
    assert "skipped: 2 no partner of its class (I_tr row 1, I_tr row 2)" in done.stdout
    assert read_manifest(tmp_path / "to/train").num_samples == 2
    run("check", tmp_path / "to/train")


def test_what_is_not_there_is_named(root: Path) -> None:
    with pytest.raises(UserError, match="image=I_te: there are I_CNN, I, T_BOW"):
        splits(root, image="I_te")
    with pytest.raises(UserError, match=r"XMediaFeatures.mat has no V_tr_CNN: it has I_tr_CNN"):
        splits(root, image="V_CNN")
    savemat(root / "XMediaFeatures.mat", features("tr") | {"trImgCat": classes(1)})
    with pytest.raises(UserError, match="4 rows of I_tr_CNN, but the classes of 1"):
        splits(root)
    (root / "XMediaFeatures.mat").unlink()
    with pytest.raises(UserError, match=r"has no XMediaFeatures.mat; `python -m shards"):
        splits(root)
