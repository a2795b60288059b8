"""Shares of train by image, caption and column; the same of each label."""

import json
from collections import Counter
from pathlib import Path

import pytest

from shards.build import build
from shards.source import Split
from tests.pair_tables import fails, notes, splits, write_table
from xmodal.errors import UserError

# -- splits by image, caption, column; the same share of each label --


def labelled(folder: Path, count: int) -> Path:
    rows = [
        {
            "image": f"{n}.jpg",
            "caption": f"caption {n} {m}",
            "label": ["common", "rare"][n % 10 == 0],
            "scene": n // 4,
        }
        for n in range(count)
        for m in range(2)
    ]
    return write_table(folder / "labelled.csv", rows)


def ids(split: Split) -> set[str]:
    return {item.image_id for item in split.items}


def test_shares_are_taken_by_image_of_each_label(tmp_path: Path) -> None:
    table = labelled(tmp_path, 400)
    found = splits(table, val=0.1, test=0.2)
    counts = {
        name: Counter(item.labels[0] for item in split.items) for name, split in found.items()
    }
    assert counts == {
        "train": {"common": 252, "rare": 28},
        "val": {"common": 36, "rare": 4},
        "test": {"common": 72, "rare": 8},
    }
    assert notes(table, val=0.1, test=0.2) == [
        "divided by image, the same share of each label: train 280 images, 560 captions; "
        "val 40 images, 80 captions; test 80 images, 160 captions"
    ]
    # A hundred more change the side of few: at each border of a label no more than one by image.
    grown = splits(labelled(tmp_path, 500), val=0.1, test=0.2)
    moved = sum(len(ids(split) - ids(grown[name])) for name, split in found.items())
    assert moved <= 40


def test_without_labels_rows_that_are_added_move_no_others(tmp_path: Path) -> None:
    def table(count: int) -> Path:
        rows = [{"image": f"{n}.jpg", "caption": "the same"} for n in range(count)]
        return write_table(tmp_path / "a.csv", rows)

    before = splits(table(2000), val=0.1)
    after = splits(table(3000), val=0.1)
    assert 140 < len(before["val"].items) < 260
    assert all(ids(before[name]) < ids(after[name]) for name in before)


def test_shares_are_taken_by_a_column(tmp_path: Path) -> None:
    table = labelled(tmp_path, 400)
    found = splits(table, val=0.2, by="scene")
    scenes = {
        name: {int(image_id.removesuffix(".jpg")) // 4 for image_id in ids(split)}
        for name, split in found.items()
    }
    assert scenes["val"]
    assert not scenes["train"] & scenes["val"]
    assert "has no column colour" in fails(table, val=0.1, by="colour")
    assert fails(table, by="scene").startswith("by=scene: it is image, caption or a column")


@pytest.mark.parametrize("count", [2, 3, 7])
def test_no_side_of_a_few_images_is_empty(count: int, tmp_path: Path) -> None:
    rows = [{"image": f"{n}.jpg", "caption": "x"} for n in range(count)]
    found = splits(write_table(tmp_path / "a.csv", rows), val=0.01)
    assert (len(found["val"].items), len(found["train"].items)) == (1, count - 1)


def test_builds_of_before_are_known_by_their_samples(images: Path) -> None:
    rows = [
        {"image": f"img/{n}.{'png' if n % 2 else 'jpg'}", "caption": f"n {n // 2}"}
        for n in range(6)
    ]
    table = write_table(images / "a.csv", rows)
    shares = {"val": 0.5}
    build("pairs", images / "to", table, options=shares | {"by": "caption"})
    for name in ("train", "val"):  # as a build wrote it that had no such options
        path = images / "to" / name / "build.json"
        plan = json.loads(path.read_text())
        for option in ("by", "quotes", "anywhere"):
            del plan["options"][option]
        path.write_text(json.dumps(plan))
    build("pairs", images / "to", table, options=shares | {"by": "caption"})
    with pytest.raises(UserError, match=r"other samples .* the options anywhere, by, quotes since"):
        build("pairs", images / "to", table, options=shares)
