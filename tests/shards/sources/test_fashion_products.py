"""Fashion Product Images: names, types, and queries that change a colour."""

from collections.abc import Callable
from pathlib import Path

import pytest

from shards.source import Item, Split, find_source
from xmodal.data.manifest import read_manifest
from xmodal.errors import UserError

HEADER = (
    "id,gender,masterCategory,subCategory,articleType,baseColour,season,year,usage,"
    "productDisplayName"
)


def row(number: int, name: str, colour: str = "Red", kind: str = "Shirts", gender: str = "Men"):
    return f"{number},{gender},Apparel,Topwear,{kind},{colour},Fall,2011,Casual,{name}"


@pytest.fixture
def splits(tmp_path: Path, encode: Callable[..., bytes]) -> Callable[..., dict[str, Split]]:
    """The splits of a table of these rows, with a photograph for each numbered one."""
    (tmp_path / "images").mkdir()

    def read(*rows: str) -> dict[str, Split]:
        (tmp_path / "styles.csv").write_text("\n".join([HEADER, *rows]) + "\n")
        for line in rows:
            (tmp_path / f"images/{line.split(',')[0]}.jpg").write_bytes(encode())
        source = find_source("fashion_products")
        return {name: make() for name, make in source.read(tmp_path, {}).items()}

    return read


def plain(found: dict[str, Split]) -> list[Item]:
    items = [item for name in ("train", "val", "test") for item in found[name].items]
    return sorted(items, key=lambda item: item.image_id)


def queries(found: dict[str, Split]) -> set[tuple[str, str, str]]:
    return {
        (query.source_id, query.modification, query.target_id)
        for name in ("composed_train", "composed_val", "composed_test")
        for query in found[name].items
    }


def test_names_are_captions_and_types_labels(splits, tmp_path: Path) -> None:
    found = splits(row(7, "Puma  Red Shirt "), row(8, "Nike Set of 3, Blue", kind="Socks"))
    assert plain(found) == [
        Item("7", tmp_path / "images/7.jpg", ["Puma Red Shirt"], ["Shirts"]),
        Item("8", tmp_path / "images/8.jpg", ["Nike Set of 3, Blue"], ["Socks"]),
    ]


def test_rows_and_photographs_that_cannot_be_used_are_named(splits, tmp_path: Path) -> None:
    (tmp_path / "images/99.jpg").write_bytes(b"")
    found = splits(row(1, "A shirt"), "2,Men,Apparel", row(1, "Another"), row(3, "NA"), row(4, " "))
    assert [item.image_id for item in plain(found)] == ["1"]
    assert found["train"].skipped == [
        ("2,Men,Apparel", "row of fewer than 10 columns", "2,Men,Apparel"),
        ("1", "row with the id of another", row(1, "Another")),
        ("3", "no name", row(3, "NA")),
        ("4", "no name", row(4, "")),
        ("99.jpg", "no row in styles.csv", ""),
    ]
    assert not any(split.skipped for name, split in found.items() if name != "train")


def test_names_equal_but_for_colours_are_in_one_split(splits) -> None:
    rows = [
        row(10 * number + n, f"Brand{number} {colour} Shirt", colour)
        for number in range(60)
        for n, colour in enumerate(["Red", "Navy Blue", "red BLUE"])
    ]
    found = splits(row(9999, "Puma", "Blue"), *rows)
    sides = {
        name: {item.captions[0].split()[0] for item in found[name].items}
        for name in ("train", "val", "test")
    }
    assert all(sides.values())
    assert sum(map(len, sides.values())) == 61
    for name in ("train", "val", "test"):
        sources = {query.source_id for query in found[f"composed_{name}"].items}
        assert sources <= {item.image_id for item in found[name].items}


def test_images_of_one_name_are_each_others_right_ones(splits) -> None:
    found = splits(row(1, "A Shirt"), row(2, "a  shirt"), row(3, "B Shirt"))
    relevance = {}
    for name in ("train", "val", "test"):
        relevance |= found[name].relevance
    assert relevance == {"1": [["1", "2"]], "2": [["1", "2"]], "3": [["3"]]}


def test_queries_change_the_one_word_of_colour(splits) -> None:
    found = splits(
        row(1, "Puma Red Shirt", "Red"),
        row(2, "Puma NAVY BLUE Shirt", "Navy Blue"),
        row(3, "puma blue shirt", "Grey"),  # the name counts, not the column
        row(4, "Puma Blue Red Shirt", "Blue"),  # two words of colour
        row(5, "Puma Redder Shirt", "Blue"),  # no word of colour
        row(6, "Puma Green Shirt", "Green", gender="Women"),
        row(7, "Puma Green Shirt", "Green", kind="Skirts"),
        row(8, "Nike Red Shirt", "Red"),
    )
    assert queries(found) == {
        *(("1", "change red to navy blue", "2"), ("1", "change red to blue", "3")),
        *(("2", "change navy blue to red", "1"), ("2", "change navy blue to blue", "3")),
        *(("3", "change blue to red", "1"), ("3", "change blue to navy blue", "2")),
    }


def test_colours_of_two_words_are_one(splits) -> None:
    found = splits(
        row(1, "Puma Grey Shirt", "Grey"),
        row(2, "Puma Grey Melange Shirt", "Grey Melange"),
        row(3, "Puma Melange Shirt", "Blue"),
    )
    assert queries(found) == {
        ("1", "change grey to grey melange", "2"),
        ("2", "change grey melange to grey", "1"),
    }


def test_a_group_with_two_of_a_colour_makes_no_queries(splits) -> None:
    rows = [row(1, "A Red Shirt"), row(2, "A red Shirt"), row(3, "A Blue Shirt", "Blue")]
    assert queries(splits(*rows)) == set()
    assert queries(splits(*rows[1:])) == {
        ("2", "change red to blue", "3"),
        ("3", "change blue to red", "2"),
    }


def test_galleries_hold_the_products_of_their_queries(splits) -> None:
    rows = [
        row(10 * number + n, f"Brand{number} {colour} Shirt", colour)
        for number in range(60)
        for n, colour in enumerate(["Red", "Blue"])
    ]
    found = splits(*rows)
    for name in ("val", "test"):
        gallery = found[f"composed_{name}_gallery"]
        asked = found[f"composed_{name}"].items
        assert asked
        assert gallery.gallery
        ids = [item.image_id for item in gallery.items]
        assert sorted(ids) == sorted(query.target_id for query in asked)
        assert gallery.items[0].captions[0].endswith("Shirt")


def test_a_table_without_colours_has_no_queries(splits) -> None:
    assert queries(splits(row(1, "A Red Shirt", "NA"), row(2, "A Blue Shirt", ""))) == set()


@pytest.mark.parametrize("text", ["", "id,name\n1,A"])
def test_another_table_is_an_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "styles.csv").write_text(text)
    with pytest.raises(UserError, match=r"the first line of .*styles.csv is not id,gender"):
        find_source("fashion_products").read(tmp_path, {})


def test_the_built_shards_have_nothing_broken(splits, tmp_path: Path, run: Callable) -> None:
    rows = [
        row(10 * number + n, f"Brand{number} {colour} Shirt", colour)
        for number in range(40)
        for n, colour in enumerate(["Red", "Blue"])
    ]
    splits(*rows)
    run("build", "fashion_products", "--from", tmp_path, "--to", tmp_path / "to")
    for name in ("train", "composed_test", "composed_test_gallery"):
        run("check", tmp_path / "to" / name)
    assert read_manifest(tmp_path / "to/train").num_samples > 40
