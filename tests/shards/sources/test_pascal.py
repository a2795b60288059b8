"""Pascal Sentence from the published page and from the download script's folders."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from shards.source import Item, Split, find_source
from xmodal.data.manifest import read_manifest
from xmodal.errors import UserError

Run = Callable[..., subprocess.CompletedProcess[str]]


def splits(root: Path, **options: int) -> dict[str, Split]:
    return {name: make() for name, make in find_source("pascal").read(root, options).items()}


def items(root: Path, **options: int) -> dict[str, Item]:
    return {
        item.image_id: item for split in splits(root, **options).values() for item in split.items
    }


def write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.fixture
def dump(tmp_path: Path, encode: Callable[..., bytes]) -> Path:
    """Two classes of ten photographs, each with two sentences in a file without a dot."""
    for category in ("bird", "cat"):
        for number in range(10):
            write(tmp_path / f"dataset/{category}/2008_{number:06}.jpg", encode())
            said = f"A {category} {number}.\nAn animal .\n".encode()
            write(tmp_path / f"sentence/{category}/2008_{number:06}txt", said)
    return tmp_path


def test_folders_of_the_download_script(dump: Path) -> None:
    (dump / "sentence/cat/2008_000003txt").rename(dump / "sentence/cat/2008_000003.txt")
    (dump / "sentence/cat/2008_000004txt").write_text("  One only \n\n")
    found = items(dump)
    assert len(found) == 20
    assert found["bird/2008_000007"] == Item(
        "bird/2008_000007",
        dump / "dataset/bird/2008_000007.jpg",
        ["A bird 7.", "An animal ."],
        ["bird"],
    )
    assert found["cat/2008_000003"].captions == ["A cat 3.", "An animal ."]
    assert found["cat/2008_000004"].captions == ["One only"]


def test_a_tenth_of_each_class_is_drawn_for_val_and_for_test(dump: Path) -> None:
    first = splits(dump)
    for name, per_class in {"train": 8, "val": 1, "test": 1}.items():
        labels = [item.labels[0] for item in first[name].items]
        assert sorted(labels) == ["bird"] * per_class + ["cat"] * per_class
    assert splits(dump) == first
    assert any(splits(dump, seed=seed)["test"] != first["test"] for seed in (1, 2, 3))


def test_what_has_no_partner_is_counted_by_the_build(dump: Path, tmp_path: Path, run: Run) -> None:
    for number in range(10):
        (dump / f"sentence/cat/2008_{number:06}txt").unlink()
        (dump / f"dataset/bird/2008_{number:06}.jpg").unlink()
    write(dump / "dataset/cat/2008_000000.jpg", b"")
    (dump / "sentence/bird/2008_000010.txt").write_text("A bird.")
    done = run("build", "pascal", "--from", dump, "--to", tmp_path / "to", code=2)
    assert "no sample of the split train can be used: " in done.stderr
    assert "9 missing (bird/" in done.stderr
    assert "8 no caption (cat/" in done.stderr


PAGE = """<html><head><title>Pascal</title></head><body>
<p>Sentences, <img src="logo.png"> <a href="x">paper</a></p>
<table>
<tr><td><img src="bird/2008_000001.jpg"></td><td><table>
  <tr><td> A bird &amp; a
   tree. </td></tr><tr><td>A blue <b>bird</b>.</td></tr></table></td></tr>
<tr><td><img src="http://host/pascal-sentences/cat/2008_000002.jpg"><td><table>
  <tr><td> A cat. <tr><td> Another. </table>
</table><p>The end.</p></body></html>"""


@pytest.mark.parametrize("name", ["index.html", "pascal-sentences.html"])
def test_the_published_page(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(PAGE)
    found = items(tmp_path)
    assert found.pop("bird/2008_000001") == Item(
        "bird/2008_000001",
        tmp_path / "bird/2008_000001.jpg",
        ["A bird & a tree.", "A blue bird."],
        ["bird"],
    )
    cat = found.pop("cat/2008_000002")
    assert cat.picture == tmp_path / "cat/2008_000002.jpg"
    assert cat.captions == ["A cat.", "Another."]


def test_a_page_of_something_else_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<p>404")
    with pytest.raises(UserError, match=r"index.html has no table of images with sentences"):
        splits(tmp_path)


def test_the_built_shards_have_nothing_broken(dump: Path, tmp_path: Path, run: Run) -> None:
    run("build", "pascal", "--from", dump, "--to", tmp_path / "to")
    assert read_manifest(tmp_path / "to/train").num_samples == 16
    run("check", tmp_path / "to/train")
