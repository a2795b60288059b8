"""Winoground as a source of shards."""

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from shards.annotations import in_format, read_lines, stripped
from shards.source import Item, SourceConfig, Split, Splits, require

LAYOUT = """
examples.jsonl        an example a line: id, image_0, image_1, caption_0, caption_1, collapsed_tag
images/ex_*_img_*.png the images, unpacked from images.zip; both here or in data/
Each example is two samples, an image with its caption and the other one as its false caption;
`group` is the example, `category` its collapsed_tag (Object, Relation or Both).

test    all examples
"""


class WinogroundConfig(SourceConfig):
    """Winoground: 400 pairs of images with two captions of the same words in another order."""

    kind: Literal["winoground"] = "winoground"
    layout: ClassVar[str] = LAYOUT
    builds: ClassVar[str] = "read"


def read(root: Path) -> Splits:
    """Find the split test."""
    examples = require(root, "examples.jsonl", "data/examples.jsonl")
    return {"test": partial(_split, examples, require(root, "images", "data/images"))}


def _split(path: Path, images: Path) -> Split:
    items: list[Item] = []
    for number, line in enumerate(read_lines(path), 1):
        with in_format(f"line {number} of {path}", "in Winoground's format"):
            items += _samples(json.loads(line), images)
    return Split(items, below=images)


def _samples(example: Mapping[str, Any], images: Path) -> Iterator[Item]:
    captions = [stripped(example[f"caption_{side}"]) for side in (0, 1)]
    details = {"group": str(example["id"])}
    if tag := example.get("collapsed_tag"):
        details["category"] = tag
    for side in (0, 1):
        name = example[f"image_{side}"].removesuffix(".png")
        false = [[captions[1 - side]]]
        yield Item(
            name, images / f"{name}.png", [captions[side]], false_captions=false, details=details
        )
