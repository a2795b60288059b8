"""Fashion200k in its published layout, with TIRG's queries."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from shards.source import Composed, Split, find_source
from xmodal.data.manifest import read_manifest
from xmodal.errors import UserError

Run = Callable[..., subprocess.CompletedProcess[str]]
CATEGORIES = ("dress", "jacket", "pants", "skirt", "top")

TRAIN = {
    "women/dress/casual/1/1_0.jpeg": "red cotton dress",
    "women/dress/casual/1/1_1.jpeg": "red cotton dress",
    "women/dress/casual/2/2_0.jpeg": "blue cotton dress",
    "women/dress/casual/3/3_0.jpeg": "red silk dress",
    "women/dress/casual/4/4_0.jpeg": "long green gown no. 5",
}
TEST = {
    "women/skirt/mini/8/8_0.jpeg": "black mini skirt",
    "women/skirt/mini/9/9_0.jpeg": "white mini skirt",
    "women/skirt/mini/9/9_1.jpeg": "white mini skirt",
    "women/skirt/mini/7/7_0.jpeg": "what? a&b *",
}


def splits(root: Path, **options: int) -> dict[str, Split]:
    return {name: make() for name, make in find_source("fashion200k").read(root, options).items()}


def label_file(root: Path, category: str, split: str) -> Path:
    return root / f"labels/{category}_{split}_detect_all.txt"


@pytest.fixture
def fashion200k(tmp_path: Path, encode: Callable[..., bytes]) -> Path:
    (tmp_path / "labels").mkdir()
    for split, names in (("train", TRAIN), ("test", TEST)):
        for category in CATEGORIES:
            lines = [
                f"{path}\t0.9{number}\t{name}"
                for number, (path, name) in enumerate(names.items())
                if path.split("/")[1] == category
            ]
            label_file(tmp_path, category, split).write_text("".join(f"{n}\n" for n in lines))
        for number, path in enumerate(names):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(encode(colour=f"hsl({number * 60},90%,50%)"))
    source, first, second, _ = TEST
    (tmp_path / "test_queries.txt").write_text(f"{source} {first}\n{second} {source}\n")
    return tmp_path


def words(query: Composed) -> tuple[str, str, str]:
    return TRAIN[query.source_id], query.modification, TRAIN[query.target_id]


def test_targets_are_drawn_among_names_that_differ_in_a_word(fashion200k: Path) -> None:
    train = splits(fashion200k, pairs=50)["train"]
    assert {words(query) for query in train.items} == {
        ("red cotton dress", "replace red with blue", "blue cotton dress"),
        ("red cotton dress", "replace cotton with silk", "red silk dress"),
        ("blue cotton dress", "replace blue with red", "red cotton dress"),
        ("red silk dress", "replace silk with cotton", "red cotton dress"),
    }
    blue = [query.target_id for query in train.items if "2_0" in query.source_id]
    assert sorted(blue) == sorted(path for path in TRAIN if "/1/" in path)
    assert train.items[0].source == fashion200k / train.items[0].source_id


def test_so_many_pairs_by_seed(fashion200k: Path) -> None:
    one = splits(fashion200k, pairs=1)["train"].items
    assert [query.source_id for query in one] == list(TRAIN)[:4]
    assert one == splits(fashion200k, pairs=1)["train"].items
    drawn = {
        tuple(query.target_id for query in splits(fashion200k, pairs=1, seed=seed)["train"].items)
        for seed in range(10)
    }
    assert len(drawn) > 1
    with pytest.raises(UserError, match="pairs=0"):
        splits(fashion200k, pairs=0)


def test_letters_are_taken_out_of_longer_words_too(fashion200k: Path) -> None:
    """As TIRG does: `red` out of `tailored` as well, which makes siblings of these two."""
    label_file(fashion200k, "pants", "train").write_text(
        "women/pants/a/1/a.jpeg\t1\tred tailored pants\nwomen/pants/a/2/b.jpeg\t1\ttailo pants\n"
    )
    train = splits(fashion200k)["train"]
    assert all("pants" not in query.source_id for query in train.items)
    label_file(fashion200k, "pants", "train").write_text(
        "women/pants/a/1/a.jpeg\t1\tred tailored pants\n"
        "women/pants/a/2/b.jpeg\t1\ttailo new pants\n"
    )
    pants = [query for query in splits(fashion200k)["train"].items if "pants" in query.source_id]
    assert {query.modification for query in pants} == {
        "replace red with tailo",
        "replace tailo with red",
    }


def test_published_queries_know_all_right_answers(fashion200k: Path) -> None:
    black, white, white_too, _ = TEST
    assert [
        (query.source_id, query.modification, query.target_id, query.details)
        for query in splits(fashion200k)["test"].items
    ] == [
        (black, "replace black with white", white, {"target_ids": [white, white_too]}),
        (white_too, "replace white with black", black, {"target_ids": [black]}),
    ]


def test_the_gallery_has_names_and_categories(fashion200k: Path) -> None:
    gallery = splits(fashion200k)["test_gallery"]
    assert {item.image_id: (item.captions, item.labels) for item in gallery.items} == {
        path: (
            [name if "?" not in name else "whatquestionmark aandmarkb starmark"],
            ["skirt"],
        )
        for path, name in TEST.items()
    }


def test_dirt_is_counted(fashion200k: Path, run: Run) -> None:
    train, test = label_file(fashion200k, "dress", "train"), fashion200k / "test_queries.txt"
    first = next(iter(TRAIN))
    train.write_text(train.read_text() + f"no tabs here\n{first}\t0.1\tanother dress\n")
    test.write_text(test.read_text() + "women/nowhere.jpeg women/skirt/mini/8/8_0.jpeg\n\n")
    found = splits(fashion200k)
    assert found["train"].skipped == [
        ("no tabs here", "no line PATH<TAB>score<TAB>name", train.name),
        (first, "listed twice", train.name),
    ]
    assert [cause for _, cause, _ in found["test"].skipped] == [
        "query of photographs that are not in labels/"
    ]
    (fashion200k / "women/skirt/mini/7/7_0.jpeg").unlink()
    done = run("build", "fashion200k", "--from", fashion200k, "--to", fashion200k / "to")
    assert "1 listed twice" in done.stdout
    assert "1 missing (women/skirt/mini/7/7_0.jpeg)" in done.stdout
    assert read_manifest(str(fashion200k / "to/test_gallery")).num_samples == 3
    for name in ("train", "test", "test_gallery"):
        run("check", fashion200k / "to" / name)


@pytest.mark.parametrize(
    "name", ["women", "test_queries.txt", *(f"labels/{c}_train_detect_all.txt" for c in CATEGORIES)]
)
def test_what_is_missing_is_named(name: str, fashion200k: Path) -> None:
    (fashion200k / name).rename(fashion200k / "elsewhere")
    with pytest.raises(UserError, match=f"has no {name}"):
        splits(fashion200k)
