"""SugarCrepe as a source of shards."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from shards.annotations import in_format, read_json, stripped
from shards.source import Item, SourceConfig, Split, Splits, require

LAYOUT = """
data/CATEGORY.json    caption, negative_caption and filename by number; CATEGORY is add_att,
                      add_obj, replace_att, replace_obj, replace_rel, swap_att or swap_obj
val2017/*.jpg         the photographs of COCO's val2017, here or in images/ or coco/images/
Each entry is a sample of its own, with its category; those of one photograph share its image_id.

test    all entries of the seven categories
"""
CATEGORIES = (
    *("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj"),
)


class SugarCrepeConfig(SourceConfig):
    """SugarCrepe: 7,500 captions of COCO, each with one that is false in one of seven ways."""

    kind: Literal["sugarcrepe"] = "sugarcrepe"
    layout: ClassVar[str] = LAYOUT
    builds: ClassVar[str] = "read"


def read(root: Path) -> Splits:
    """Find the split test."""
    photographs = require(root, "val2017", "images/val2017", "coco/images/val2017")
    files = [require(root, f"data/{name}.json", f"{name}.json") for name in CATEGORIES]
    return {"test": partial(_split, files, photographs)}


def _split(files: Sequence[Path], photographs: Path) -> Split:
    return Split([item for file in files for item in _items(file, photographs)], below=photographs)


def _items(file: Path, photographs: Path) -> list[Item]:
    with in_format(file, "in SugarCrepe's format"):
        return [_item(entry, file.stem, photographs) for entry in read_json(file).values()]


def _item(entry: Mapping[str, Any], category: str, photographs: Path) -> Item:
    name = entry["filename"]
    return Item(
        name.rpartition(".")[0],
        photographs / name,
        [stripped(entry["caption"])],
        false_captions=[[stripped(entry["negative_caption"])]],
        details={"category": category},
    )
