"""ARO as a source of shards."""

import io
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from shards.annotations import in_format, read_json, stripped
from shards.files import Skipped, read_file
from shards.source import Item, SourceConfig, Split, Splits, require
from xmodal.data.decode import open_image
from xmodal.data.limits import MAX_PIXELS

LEAST = 25  # cases of a pair of attributes that is counted by itself, as published
LAYOUT = """
visual_genome_relation.json     each may be missing: image_path, the box bbox_x, bbox_y, bbox_w and
visual_genome_attribution.json  bbox_h, true_caption, false_caption; relation_name or attributes
images/*.jpg                    photographs of Visual Genome, which the two files name
coco_order.json                 a list of objects of `image` and `caption_options`, the caption and
flickr30k_order.json            false ones. ARO draws these anew: they are the test_cases of its
                                COCO_Order and Flickr30k_Order as JSON. Images lie in this folder.

relation      the box of each photograph, as a PNG; `category` is the relation
attribution   the same; `category` is the pair of attributes, where it has 25 cases or more
coco_order, flickr30k_order   a photograph, its caption, and the same words in other orders
"""
BOXES = {"relation": "visual_genome_relation.json", "attribution": "visual_genome_attribution.json"}
ORDERS = {"coco_order": "coco_order.json", "flickr30k_order": "flickr30k_order.json"}


class AroConfig(SourceConfig):
    """ARO: photographs with captions, and false ones of another relation, attribution or order."""

    kind: Literal["aro"] = "aro"
    layout: ClassVar[str] = LAYOUT
    builds: ClassVar[str] = "read"


def read(root: Path) -> Splits:
    """Find the splits whose files are there; raises `MissingError` where none is."""
    makers: Mapping[str, Callable[[Path, Path], Split]] = {
        **dict.fromkeys(BOXES, _boxes),
        **dict.fromkeys(ORDERS, _orders),
    }
    names = BOXES | ORDERS
    require(root, *names.values())
    return {
        split: partial(makers[split], root / name, root)
        for split, name in names.items()
        if (root / name).exists()
    }


@dataclass(frozen=True)
class Box:
    """The part of an image file within a box, as a PNG; the file lies below a folder."""

    path: Path
    below: Path
    box: tuple[int, int, int, int]  # left, top, right, bottom

    def __call__(self) -> bytes:
        from PIL import Image

        left, top, right, bottom = self.box
        if not (left < right and top < bottom and (right - left) * (bottom - top) <= MAX_PIXELS):
            raise Skipped("box without an area, or too large", str(self.box))
        pixels = open_image(read_file(self.path, self.below)).pixels()
        file = io.BytesIO()
        Image.fromarray(pixels).crop(self.box).save(file, "PNG")
        return file.getvalue()


def _boxes(file: Path, root: Path) -> Split:
    images = require(root, "images")
    with in_format(file, "in ARO's format"):
        cases = read_json(file)
        names = [_category(case) for case in cases]
        counts = Counter(names)
        least = 1 if file.name == BOXES["relation"] else LEAST
        kept = [name if counts[name] >= least else None for name in names]
        return Split([_box_item(*one, images) for one in zip(cases, kept, strict=True)])


def _category(case: Mapping[str, Any]) -> str:
    if "relation_name" in case:
        return str(case["relation_name"])
    first, second = case["attributes"]
    return f"{first}_{second}"


def _box_item(case: Mapping[str, Any], category: str | None, images: Path) -> Item:
    left, top, width, height = (int(case[f"bbox_{one}"]) for one in "xywh")
    box = (left, top, left + width, top + height)
    name = case["image_path"]
    return Item(
        f"{Path(name).stem}/{left},{top},{width},{height}",
        Box(images / name, images, box),
        [stripped(case["true_caption"])],
        false_captions=[[stripped(case["false_caption"])]],
        details={} if category is None else {"category": category},
    )


def _orders(file: Path, root: Path) -> Split:
    with in_format(file, "in ARO's format"):
        return Split([_order_item(case, root) for case in read_json(file)], below=root)


def _order_item(case: Mapping[str, Any], root: Path) -> Item:
    caption, *false = map(stripped, case["caption_options"])
    name = case["image"]
    return Item(Path(name).stem, root / name, [caption], false_captions=[false])
