"""NUS-WIDE from its published lists of ones and zeros, with the dirt that is in them."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from shards.source import Item, Split, find_source
from shards.sources import nus_wide
from xmodal.data.manifest import read_manifest
from xmodal.errors import UserError

# Path as listed, split, labels, tags.
PHOTOGRAPHS = [
    (r"actor\0001_21.jpg", "Train", "sky", "blue"),
    (r"actor\0002_22.jpg", "Test", "lake sky", "nature blue"),
    (r"zoo\0001_23.jpg", "Train", "", "water"),
    (r"zoo\0002_24.jpg", "Train", "lake", ""),
    (r"zoo\0003_21.jpg", "Test", "sky", "blue"),
    (r"zoo\0004_22.jpg", "Train", "lake", "nature blue"),
    (r"zoo\0005_25.jpg", "Test", "lake", "water"),
]
# The order of the columns is that of the lists, not of the alphabet.
CONCEPTS = ["sky", "lake"]
TAGS = ["water", "nature", "blue"]


def write(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{line}\r\n" for line in lines).encode())


def marks(said: str, names: list[str]) -> list[str]:
    return [str(int(name in said.split())) for name in names]


def make(root: Path, photographs: list, concepts: list[str], tags: list[str]) -> None:
    write(root / "ImageList/Imagelist.txt", *(row[0] for row in photographs))
    for split in ("Train", "Test"):
        names = [row[0] for row in photographs if row[1] == split]
        write(root / f"ImageList/{split}Imagelist.txt", *names)
    write(root / "ConceptsList/Concepts81.txt", *concepts)
    for concept in concepts:
        lines = [marks(row[2], [concept])[0] for row in photographs]
        write(root / f"Groundtruth/AllLabels/Labels_{concept}.txt", *lines)
    write(root / "Groundtruth/TrainTestLabels/Labels_lake_Train.txt", "-1130179")
    write(root / "NUS_WID_Tags/TagList1k.txt", *tags)
    lines = ["\t".join(marks(row[3], tags)) + "\t" for row in photographs]
    write(root / "NUS_WID_Tags/AllTags1k.txt", *lines)


def splits(root: Path, **options: str | int) -> dict[str, Split]:
    return {name: make() for name, make in find_source("nus_wide").read(root, options).items()}


@pytest.fixture
def root(tmp_path: Path, encode: Callable[..., bytes]) -> Path:
    make(tmp_path, PHOTOGRAPHS, CONCEPTS, TAGS)
    for name, *_ in PHOTOGRAPHS:
        path = tmp_path / "Flickr" / name.replace("\\", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode())
    return tmp_path


def test_photographs_as_listed(root: Path) -> None:
    flickr = root / "Flickr"
    assert splits(root) == {
        "train": Split(
            [
                Item("21", flickr / "actor/0001_21.jpg", ["blue"], ["sky"]),
                Item("23", flickr / "zoo/0001_23.jpg", ["water"], []),
                Item("24", flickr / "zoo/0002_24.jpg", [], ["lake"]),
            ],
            skipped=[("22", "listed twice with different labels", "zoo/0004_22.jpg")],
        ),
        "test": Split(
            [Item("25", flickr / "zoo/0005_25.jpg", ["water"], ["lake"])],
            skipped=[
                ("22", "listed twice with different labels", "actor/0002_22.jpg"),
                ("21", "listed twice", "zoo/0003_21.jpg"),
            ],
        ),
    }


def test_tags_and_labels_are_in_the_order_of_their_lists(root: Path) -> None:
    make(root, [(r"a\0_1.jpg", "Train", "lake sky", "blue water nature")], CONCEPTS, TAGS)
    (item,) = splits(root)["train"].items
    assert item.captions == ["water, nature, blue"]
    assert item.labels == ["sky", "lake"]


def test_broken_labels_are_named(root: Path) -> None:
    write(
        root / "Groundtruth/AllLabels/Labels_lake.txt", *["0", "1", "-1130179", "1", "0", "1", "1"]
    )
    train = splits(root)["train"]
    assert [item.image_id for item in train.items] == ["21", "24"]
    assert train.skipped[0] == ("23", "label neither 0 nor 1", "line 3 of Labels_lake.txt")


def test_the_built_shards_have_nothing_broken(root: Path, tmp_path: Path, run: Callable) -> None:
    (root / "Flickr/zoo/0001_23.jpg").write_bytes(b"GIF?")
    done = run("build", "nus_wide", "--from", root, "--to", tmp_path / "to")
    assert "skipped: 1 listed twice with different labels (22); " in done.stdout
    assert "1 image does not decode (not an image) (23); " in done.stdout
    assert "1 no caption (24)" in done.stdout
    assert read_manifest(tmp_path / "to/train").num_samples == 1
    run("check", tmp_path / "to/train")


@pytest.mark.parametrize(
    ("name", "lines", "says"),
    [
        ("Groundtruth/AllLabels/Labels_sky.txt", ["0", "1"], "Labels_sky.txt has 2 lines, "),
        ("Groundtruth/AllLabels/Labels_sky.txt", [], "Labels_sky.txt has 0 lines, "),
        ("NUS_WID_Tags/AllTags1k.txt", ["0 1 0"], "AllTags1k.txt has 1 lines, "),
        ("NUS_WID_Tags/AllTags1k.txt", ["0 1 0", "0 1"], "line 2 of .* has 2 marks for the 3 tags"),
        ("ImageList/TrainImagelist.txt", [r"b\1_1.jpg"], "has b/1_1.jpg, which is not in"),
        ("ConceptsList/Concepts81.txt", ["moon"], "AllLabels has no Labels_moon.txt"),
    ],
)
def test_lists_that_do_not_go_together_are_an_error(
    name: str, lines: list[str], says: str, root: Path
) -> None:
    write(root / name, *lines)
    with pytest.raises(UserError, match=says):
        splits(root)


def many(concept: str, count: int, more: str = "", tags: str = "nature") -> list:
    return [
        (rf"{concept}{more}{tags}\{number:04}_{concept}{more}{tags}{number}.jpg", "Train",
         f"{concept} {more}", tags)
        for number in range(count)
    ]  # fmt: skip


def test_the_10k_subset_is_drawn_from_photographs_of_one_concept(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nus_wide, "_10K_PER_CONCEPT", 20)
    ten = [
        "animal",
        "clouds",
        "flowers",
        "food",
        "grass",
        "person",
        "sky",
        "toy",
        "water",
        "window",
    ]
    photographs = [row for concept in ten for row in many(concept, 25)]
    photographs += many("sky", 5, "clouds") + many("toy", 5, "lake") + many("food", 5, tags="")
    make(root, photographs, ["lake", *ten], TAGS)
    found = splits(root, subset="10k")
    for name, per_concept in {"train": 16, "val": 2, "test": 2}.items():
        labels = Counter(item.labels[0] for item in found[name].items)
        assert labels == dict.fromkeys(ten, per_concept)
        assert all(len(item.labels) == 1 for item in found[name].items)
    ids = [item.image_id for split in found.values() for item in split.items]
    assert len(set(ids)) == 200
    assert not any("skyclouds" in each for each in ids)
    assert all(item.captions for split in found.values() for item in split.items)
    assert splits(root, subset="10k") == found
    other = splits(root, subset="10k", seed=1)
    assert other["test"] != found["test"]


def test_a_10k_subset_that_cannot_be_drawn_is_an_error(root: Path) -> None:
    with pytest.raises(UserError, match="only 0 photographs show animal and none of the other"):
        splits(root, subset="10k")
    with pytest.raises(UserError, match="subset=1k: there are all and 10k"):
        splits(root, subset="1k")
