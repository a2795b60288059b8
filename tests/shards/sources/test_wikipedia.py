"""Wikipedia's images with their sections, from the published lists, XML and folders."""

from pathlib import Path

import pytest

from shards.source import Item, Split, find_source
from xmodal.errors import UserError

XML = '<?xml version="1.0" encoding="UTF-8" ?>\n<article><image>{0}</image>\n<text>\n{1}\n</text>\n'


def splits(root: Path) -> dict[str, Split]:
    return {name: make() for name, make in find_source("wikipedia").read(root, {}).items()}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    (tmp_path / "texts").mkdir()
    texts = {"aa-1": "First  part.\nSecond part.", "bb-4.5": "War &amp; peace", "cc-2": "A & B <c>"}
    for name, text in texts.items():
        (tmp_path / f"texts/{name}.xml").write_text(XML.format(name, text))
    (tmp_path / "trainset_txt_img_cat.list").write_text("aa-1\ti1\t1\r\nbb-4.5\ti2\t10\r\n")
    (tmp_path / "testset_txt_img_cat.list").write_text("cc-2\ti3\t2\n")
    return tmp_path


def test_pairs_are_split_as_listed(root: Path) -> None:
    assert splits(root) == {
        "train": Split(
            [
                Item("art/i1", root / "images/art/i1.jpg", ["First part. Second part."], ["art"]),
                Item("warfare/i2", root / "images/warfare/i2.jpg", ["War & peace"], ["warfare"]),
            ],
            skipped=[],
        ),
        # Broken XML in the text and around it.
        "test": Split(
            [Item("biology/i3", root / "images/biology/i3.jpg", ["A & B <c>"], ["biology"])],
            skipped=[],
        ),
    }


def test_sections_of_one_image_are_its_captions(root: Path) -> None:
    (root / "testset_txt_img_cat.list").write_text("cc-2\ti3\t2\naa-1\ti3\t2\naa-1\ti3\t3\n")
    found = {item.image_id: item.captions for item in splits(root)["test"].items}
    assert found == {
        "biology/i3": ["A & B <c>", "First part. Second part."],
        "geography/i3": ["First part. Second part."],
    }


def test_texts_that_cannot_be_read_are_named(root: Path) -> None:
    (root / "texts/aa-1.xml").unlink()
    (root / "texts/bb-4.5.xml").write_bytes(b"<text>caf\xe9</text>")
    (root / "texts/cc-2.xml").write_text("<text> </text>")
    found = splits(root)
    assert [each.items for each in found.values()] == [[], []]
    cause = "text missing or broken"
    assert found["train"].skipped == [
        ("aa-1", cause, str(root / "texts/aa-1.xml")),
        ("bb-4.5", cause, str(root / "texts/bb-4.5.xml")),
    ]
    assert [name for name, _, _ in found["test"].skipped] == ["cc-2"]


@pytest.mark.parametrize("line", ["cc-2\ti3\t11", "cc-2\ti3\t0", "cc-2\ti3", "cc-2\ti3\tart"])
def test_a_list_of_another_kind_is_an_error(line: str, root: Path) -> None:
    (root / "testset_txt_img_cat.list").write_text(line)
    with pytest.raises(UserError, match=r"testset_txt_img_cat.list has a line that is not"):
        splits(root)


@pytest.mark.parametrize("name", ["images", "texts", "testset_txt_img_cat.list"])
def test_what_is_missing_is_named(name: str, root: Path) -> None:
    (root / name).rename(root / "elsewhere")
    with pytest.raises(UserError, match=f"has no {name}; `python -m shards"):
        splits(root)
