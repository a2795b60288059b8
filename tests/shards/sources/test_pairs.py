"""One's own pairs: tables of every kind, texts beside images, and what is wrong in them."""

import math
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards.build import build
from shards.source import Item
from tests.pair_tables import causes, fails, splits, train, write, write_table
from xmodal.data.fields import captions_of
from xmodal.data.manifest import read_manifest

Run = Callable[..., subprocess.CompletedProcess[str]]


# -- tables --

ROWS = [
    {"image": "img/0.jpg", "caption": "a dog", "label": "animal"},
    {"image": "img/1.png", "caption": 'the "big", red\ncat', "label": "animal"},
    {"image": "img/0.jpg", "caption": "ein Hündchen", "label": "Hund"},
]
EXPECTED = {
    "img/0.jpg": (["a dog", "ein Hündchen"], ["animal", "Hund"]),
    "img/1.png": (['the "big", red\ncat'], ["animal"]),
}


@pytest.mark.parametrize("from_folder", [True, False])
@pytest.mark.parametrize(
    "name",
    ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.parquet", "A.CSV", "semicolon.csv", "bom.csv"],
)
def test_tables_of_every_kind_say_the_same(name: str, from_folder: bool, images: Path) -> None:
    table = write_table(images / name, ROWS, "utf-8-sig" if "bom" in name else "utf-8")
    found = splits(images if from_folder else table, quotes="double")
    (items,) = [split.items for split in found.values()]
    assert {item.image_id: (item.captions, item.labels) for item in items} == EXPECTED
    assert items[0].picture == images / "img/0.jpg"


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.text(min_size=1).filter(lambda t: t.strip() and "\0" not in t), min_size=1),
    suffix=st.sampled_from([".csv", ".tsv", ".jsonl", ".json", ".parquet"]),
)
def test_any_text_survives_a_table(texts: list[str], suffix: str, images: Path) -> None:
    rows = [{"image": "img/0.jpg", "caption": text} for text in texts]
    table = write_table(images / f"any{suffix}", rows)
    usable = captions_of(texts).kept
    found = splits(table, quotes="double")["train"]
    assert [item.captions for item in found.items] == [[text.strip() for text in usable]][
        : bool(usable)
    ]
    assert len(found.skipped) == len(texts) - len(usable)
    table.unlink()


@pytest.mark.parametrize(
    ("image", "caption"),
    [("file_name", "text"), ("Image_Path", " TITLE "), ("filepath", "sentence")],
)
def test_usual_columns_are_found(image: str, caption: str, images: Path) -> None:
    table = write_table(images / "a.csv", [{"n": 7, image: "img/0.jpg", caption: "a dog"}])
    assert train(table) == {"img/0.jpg": ["a dog"]}


def test_columns_that_are_named(images: Path) -> None:
    row = {
        "image": "no.jpg", "caption": "no", "p": "img/0.jpg", "q": "a dog", "c": 3, "i": 17,
        "s": "holdout",
    }  # fmt: skip
    table = write_table(images / "a.parquet", [row])
    options = {"image": "p", "caption": "q", "label": "c", "image_id": "i", "split": "s"}
    assert splits(table, **options)["holdout"].items == [
        Item("17", images / "img/0.jpg", ["a dog"], ["3"])
    ]
    assert fails(table, label="colour").endswith(
        "a.parquet has no column colour; it has image, caption, p, q, c, i, s: "
        "name one of them by label=NAME"
    )


def test_lists_of_captions_and_labels(images: Path) -> None:
    rows = [{"image": "img/0.jpg", "captions": ["a", "b"], "labels": ["x", "y"]}]
    for name in ("a.jsonl", "b.json", "c.parquet"):
        item = splits(write_table(images / name, rows))["train"].items[0]
        assert (item.captions, item.labels) == (["a", "b"], ["x", "y"])


def test_paths_lead_out_of_the_folder_where_that_is_asked_for(images: Path) -> None:
    table = write_table(
        write(images / "tables/x", "").with_name("a.csv"),
        [
            {"image": images / "img/0.jpg", "caption": "a"},
            {"image": "../img/1.png", "caption": "b"},
        ],
    )
    found = splits(table, anywhere=True)["train"]
    assert [item.picture for item in found.items] == [images / "img/0.jpg", images / "img/1.png"]
    assert found.below is None
    outside = "path leads out of the folder (anywhere=true allows it)"
    assert causes(table) == [
        (f"{images}/img/0.jpg", outside, "a.csv:2"), ("../img/1.png", outside, "a.csv:3"),
    ]  # fmt: skip
    # From the folder that holds both, the second is inside, and so is an absolute path.
    inside = write_table(images / "train.csv", [{"image": images / "img/0.jpg", "caption": "a"}])
    assert list(train(images)) == [f"{images}/img/0.jpg"]
    assert splits(inside)["train"].below == images


# -- splits --


def test_splits_of_a_column(images: Path) -> None:
    rows = [
        {"image": f"img/{n}.jpg", "caption": str(n), "split": split}
        for n, split in enumerate(["train", "val", "train", "../up", "", "my.test-2"])
    ]
    table = write_table(images / "a.csv", rows)
    assert {name: len(split.items) for name, split in splits(table).items()} == {
        "train": 2, "val": 1, "my.test-2": 1,
    }  # fmt: skip
    assert [cause for _, cause, _ in causes(table)] == [
        "split that is no name of a folder",
        "split empty",
    ]
    assert fails(table, val=0.1) == "the data have a split val already: remove val="


def test_tables_of_splits(images: Path) -> None:
    for name, number in (("train.csv", 0), ("val.csv", 2), ("test/metadata.jsonl", 4)):
        (images / name).parent.mkdir(exist_ok=True)
        write_table(images / name, [{"file_name": f"{images}/img/{number}.jpg", "text": "x"}])
    assert {name: split.items[0].picture for name, split in splits(images).items()} == {
        name: images / f"img/{number}.jpg"
        for name, number in (("train", 0), ("val", 2), ("test", 4))
    }
    write_table(images / "other.csv", [{"image": "img/0.jpg", "caption": "x"}])
    assert fails(images) == (
        f"{images} has several tables (other.csv, train.csv, val.csv, test/metadata.jsonl): "
        "name one of them by --from"
    )


def test_an_image_is_in_one_split(images: Path) -> None:
    write_table(images / "train.csv", [{"image": "img/0.jpg", "caption": "x"}])
    write_table(
        images / "val.csv",
        [{"image": "img/0.jpg", "caption": "y"}, {"image": "img/1.png", "caption": "y"}],
    )
    found = splits(images)
    assert [item.image_id for item in found["val"].items] == ["img/1.png"]
    assert causes(images) == [("img/0.jpg", "image of another split", "val.csv:2")]


def many(folder: Path, count: int) -> Path:
    rows = [{"image": f"{n}.jpg", "caption": f"Caption {n // 2}"} for n in range(count)]
    return write_table(folder / "many.csv", rows)


def test_shares_are_taken_by_caption(tmp_path: Path) -> None:
    found = splits(many(tmp_path, 4000), val=0.1, test=0.2, by="caption")
    said = {name: {i.captions[0] for i in split.items} for name, split in found.items()}
    assert list(found) == ["train", "val", "test"]
    assert not said["train"] & said["val"]
    assert not said["train"] & said["test"]
    assert not said["val"] & said["test"]
    for name, share in (("train", 0.7), ("val", 0.1), ("test", 0.2)):
        deviation = math.sqrt(2000 * share * (1 - share))
        assert abs(len(said[name]) - 2000 * share) < 4 * deviation
    before = {item.image_id for item in found["val"].items}
    grown = {
        item.image_id for item in splits(many(tmp_path, 6000), val=0.1, by="caption")["val"].items
    }
    assert before < grown


@pytest.mark.parametrize("shares", [{"val": -0.1}, {"val": 1.0}, {"val": 0.5, "test": 0.5}])
def test_shares_that_are_none(shares: dict, images: Path) -> None:
    assert "they are shares of all images" in fails(images, **shares)


def test_captions_of_several_images_are_relevant_to_all(images: Path) -> None:
    rows = [("0.jpg", "A dog"), ("1.png", "a cat"), ("2.jpg", "a dog"), ("2.jpg", "a pup")]
    table = write_table(
        images / "val.csv", [{"image": f"img/{name}", "caption": said} for name, said in rows]
    )
    assert splits(table)["val"].relevance == {
        "img/0.jpg": [["img/0.jpg", "img/2.jpg"]],
        "img/1.png": [["img/1.png"]],
        "img/2.jpg": [["img/0.jpg", "img/2.jpg"], ["img/2.jpg"]],
    }
    assert splits(table.rename(images / "train.csv"))["train"].relevance is None
    unique = write_table(images / "val.csv", [{"image": "a", "caption": "b"}])
    assert splits(unique)["val"].relevance is None


# -- what is wrong --


def test_rows_that_cannot_be_used_are_counted(images: Path) -> None:
    table = write(
        images / "a.csv",
        "image,caption,image_id\n"
        "img/0.jpg,a dog,zero\n"
        "img/0.jpg,  ,zero\n"
        ",a dog,\n"
        "https://x.org/1.jpg,a dog,\n"
        "img/1.png,a cat,zero\n"
        "img/0.jpg,a pup,other\n"
        "img/1.png,a cat\n"
        "img/1.png,a cat,1,and more\n"
        '"img/2.jpg","two\nlines",\n',
    )
    assert train(table) == {"zero": ["a dog"], "img/2.jpg": ["two\nlines"]}
    assert causes(table) == [
        ("img/0.jpg", "caption is missing", "a.csv:3"),
        ("a.csv:4", "no image", "a.csv:4"),
        ("https://x.org/1.jpg", "a URL, not a file (img2dataset fetches them)", "a.csv:5"),
        ("img/1.png", "id of another image", "a.csv:6"),
        ("img/0.jpg", "image of another id", "a.csv:7"),
        ("a.csv:8", "row of another length than the header", "2 cells, 3 columns"),
        ("a.csv:9", "row of another length than the header", "4 cells, 3 columns"),
    ]


def test_lines_of_jsonl_that_cannot_be_used_are_counted(images: Path) -> None:
    table = write(
        images / "a.jsonl",
        '{"image": "img/0.jpg", "caption": "a dog"}\n'
        '{"image": "img/0.jpg", "caption"\n'
        "[1]\n"
        '{"caption": "a dog"}\n'
        '{"image": ["img/0.jpg", "img/1.png"], "caption": "a dog"}\n'
        '{"image": "img/1.png", "caption": null}\n'
        '{"image": "img/1.png", "caption": []}\n'
        '{"image": "img/1.png", "caption": "\\ud800"}\n'
        '{"image": "img/1\\u0000.png", "caption": "a dog"}\n'
        '{"image": "img/2.jpg", "caption": ["x", 7], "label": [5, "y", 1.5]}\n',
    )
    assert train(table) == {"img/0.jpg": ["a dog"], "img/2.jpg": ["x"]}
    assert splits(table)["train"].items[1].labels == ["5", "y"]
    found = [(d if d.startswith("a.jsonl:") else name, cause) for name, cause, d in causes(table)]
    assert found == [
        ("a.jsonl:2", "broken JSON"),
        ("a.jsonl:3", "no JSON object"),
        ("a.jsonl:4", "no image"),
        ("a.jsonl:5", "several images"),
        ("a.jsonl:6", "caption is missing"),
        ("a.jsonl:7", "caption is missing"),
        ("a.jsonl:8", "caption has half a surrogate pair"),
        ("a.jsonl:9", "no image"),
        ("a.jsonl:10", "caption is no text (but a number)"),
        ("a.jsonl:10", "label is no text or whole number (but a float)"),
    ]


def test_what_pandas_left_empty_is_no_caption(images: Path) -> None:
    rows = [
        {"image": "img/0.jpg", "caption": math.nan, "label": None},
        {"image": "img/1.png", "caption": 3.5, "label": None},
    ]
    table = write_table(images / "a.parquet", rows)
    assert causes(table) == [
        ("img/0.jpg", "caption is missing", "a.parquet:1"),
        ("img/1.png", "caption is no text (but a float)", "a.parquet:2"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"image,caption\na.jpg,caf\xe9\n", "line 2 of {table} is not UTF-8"),
        ("a.jsonl", b'{"image": "a", "caption": "caf\xe9"}', "line 1 of {table} is not UTF-8"),
        (
            "a.csv",
            b'image,caption\na.jpg,"open\nb.jpg,x\n',
            "line 2 of {table} begins a row that is broken (unexpected end of data): close",
        ),
        (
            "a.csv",
            b'image,caption\na.jpg,"a" b\n',
            "line 2 of {table} begins a row that is broken (',' expected after '\"')",
        ),
        (
            "a.csv",
            b"a.jpg,a dog\nb.jpg,a cat\n",
            "{table} has no column for the image; it has a.jpg, a dog: name one of them by image=",
        ),
        (
            "a.csv",
            b"image,said\na,b\n",
            "{table} has no column for the caption; it has image, said",
        ),
        ("a.json", b'{"image": "a"}', "{table} is no list of objects, but an object with image"),
        ("a.json", b"[", "{table} is broken JSON"),
        ("a.parquet", b"PAR1", "{table} cannot be read: "),
        ("a.xlsx", b"PK", "{table} is not a table: its name ends with none of .csv, .tsv"),
    ],
)
def test_tables_that_cannot_be_read(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    table = tmp_path / name
    table.write_bytes(content)
    assert fails(table).startswith(message.format(table=table))


# -- images with texts beside them --


def test_texts_beside_images(images: Path) -> None:
    write(images / "img/0.txt", "\ufeffa dog\n\n a pup \n")
    write(images / "val/deep/x.txt", "a cat")
    (images / "img/2.jpg").rename(images / "val/deep/x.JPG")
    write(images / "img/1.txt", " \n")
    write(images / "img/lonely.txt", "a bird")
    write(images / ".trash/y.txt", "a fish")
    found = splits(images)
    assert {name: split.items for name, split in found.items()} == {
        "train": [Item("img/0.jpg", images / "img/0.jpg", ["a dog", "a pup"], [])],
        "val": [Item("val/deep/x.JPG", images / "val/deep/x.JPG", ["a cat"], [])],
    }
    assert causes(images) == [
        ("img/1.png", "caption is empty", "1.txt"),
        ("img/3.png", "no .txt beside it", ""),
        ("img/4.jpg", "no .txt beside it", ""),
        ("img/5.png", "no .txt beside it", ""),
        ("img/lonely.txt", "no image beside it", ""),
    ]
    assert "there are only 1 images" in fails(images, test=0.5)


@pytest.mark.parametrize(
    ("text", "captions", "cause"),
    [
        (b"one\rtwo\r", ["one", "two"], ""),
        (b"one\r\n\r\ntwo", ["one", "two"], ""),
        (b"\xff\xfeo\0", [], "caption in its txt is not UTF-8"),
        (b"o\0n\0e\0", [], "caption has a NUL in it"),
    ],
)
def test_texts_beside_images_are_read_as_in_shards(
    images: Path, text: bytes, captions: list[str], cause: str
) -> None:
    (images / "img/0.txt").write_bytes(text)
    write(images / "img/1.txt", "a cat")
    expected = {"img/0.jpg": captions} if captions else {}
    assert train(images) == expected | {"img/1.png": ["a cat"]}
    assert [why for name, why, _ in causes(images) if name == "img/0.jpg"] == [cause] * bool(cause)


def test_a_folder_without_pairs(images: Path) -> None:
    assert fails(images) == (
        f"{images} has no table, and no images with .txt files beside them; "
        "`python -m shards sources pairs` prints the layout it expects"
    )


# -- the command --


def test_built_and_checked(images: Path, run: Run) -> None:
    rows = [{"image": f"img/{n}.{'png' if n % 2 else 'jpg'}", "text": f"n {n}"} for n in range(6)]
    rows += [{"image": "img/9.jpg", "text": "missing"}, {"image": "img/0.jpg", "text": ""}]
    table = write_table(images / "pairs.tsv", rows)
    words = ("build", "pairs", "--from", table, "--to", images / "to", "val=0.4")
    done = run(*words)
    assert "1 missing (img/9.jpg)" in done.stdout
    assert "1 caption is missing (img/0.jpg)" in done.stdout
    counts = [read_manifest(str(images / "to" / name)).num_samples for name in ("train", "val")]
    assert sum(counts) == 6
    for name in ("train", "val"):
        run("check", images / "to" / name)
    assert run(*words).stdout == done.stdout


def test_nothing_that_can_be_used(images: Path, run: Run) -> None:
    table = write_table(images / "a.csv", [{"image": "https://x.org/1.jpg", "caption": "x"}])
    done = run("build", "pairs", "--from", table, "--to", images / "to", code=2)
    assert "pairs has no samples for the split train; skipped: 1 a URL, not a file" in done.stderr
    missing = run("build", "pairs", "--from", images / "b.csv", "--to", images / "to", code=2)
    assert f"--from {images / 'b.csv'}: no such file or folder" in missing.stderr


# -- paths --


def test_links_that_leave_the_folder(images: Path, tmp_path_factory, capsys) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (images / "img/1.png").rename(elsewhere / "1.png")
    (images / "img/1.png").symlink_to(elsewhere / "1.png")
    (images / "out").symlink_to(elsewhere)
    names = ["img/0.jpg", "img/1.png", "out/1.png", "/dev/zero", "in/2.jpg"]
    (images / "in").symlink_to(images / "img")
    table = write_table(images / "a.csv", [{"image": name, "caption": "x"} for name in names])
    build("pairs", images / "to", table)
    outside = "path leads out of the folder (anywhere=true allows it)"
    said = capsys.readouterr().out
    assert "train: 2 samples" in said
    assert f"skipped: 3 {outside} (" in said
    build("pairs", images / "all", table, options={"anywhere": True})
    said = capsys.readouterr().out
    assert "train: 4 samples" in said
    assert "skipped: 1 not a regular file (/dev/zero)" in said
