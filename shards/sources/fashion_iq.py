"""Fashion IQ as a source of shards."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from shards.annotations import read_json
from shards.source import Composed, Item, SourceConfig, Split, Splits, require
from xmodal.errors import UserError

LAYOUT = """
captions/cap.CATEGORY.SPLIT.json        candidate, target and two captions each; CATEGORY is
                                        dress, shirt and toptee, SPLIT train and val
image_splits/split.CATEGORY.SPLIT.json  the photographs of each gallery
images/ASIN.jpg                         the photographs, or in resized_images/ or all_imgs/
The modification is both captions, joined with ` and it `; each alone is in the sample's JSON as
`captions`, and `category` is there too. The test split is published without targets: it is not
made.

train                  all categories
val_CATEGORY           of one category, as results are reported
val_CATEGORY_gallery   what it is searched in: all photographs of split.CATEGORY.val.json
"""


class FashionIqConfig(SourceConfig):
    """Fashion IQ: photographs of dresses, shirts and tops, the requested changes, and the
    targets.
    """

    kind: Literal["fashion_iq"] = "fashion_iq"
    layout: ClassVar[str] = LAYOUT
    builds: ClassVar[str] = "read"


_CATEGORIES = ("dress", "shirt", "toptee")


def read(root: Path) -> Splits:
    """Find train, and for each category its val and the gallery of that."""
    photographs = require(root, "images", "resized_images", "all_imgs")
    splits: Splits = {"train": partial(_queries, root, "train", _CATEGORIES, photographs)}
    for category in _CATEGORIES:
        splits[f"val_{category}"] = partial(_queries, root, "val", [category], photographs)
        splits[f"val_{category}_gallery"] = partial(_gallery, root, category, photographs)
    return splits


def _queries(root: Path, split: str, categories: Sequence[str], photographs: Path) -> Split:
    files = {
        category: require(root, f"captions/cap.{category}.{split}.json") for category in categories
    }
    return Split(
        [
            query
            for category, file in files.items()
            for query in _queries_of(category, file, photographs)
        ]
    )


def _queries_of(category: str, file: Path, photographs: Path) -> Iterator[Composed]:
    try:
        for query in read_json(file):
            # Some of the two are blank: then the other alone asks for the target.
            captions = [said for caption in query["captions"] if (said := caption.strip())]
            yield Composed(
                query["candidate"],
                photographs / f"{query['candidate']}.jpg",
                " and it ".join(captions),
                query["target"],
                photographs / f"{query['target']}.jpg",
                {"category": category, "captions": captions},
            )
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is not in Fashion IQ's format (no {error})") from None


def _gallery(root: Path, category: str, photographs: Path) -> Split:
    file = require(root, f"image_splits/split.{category}.val.json")
    names: Any = read_json(file)
    if not isinstance(names, list):
        raise UserError(f"{file} is no list of photographs")
    items = [Item(str(name), photographs / f"{name}.jpg", [], [category]) for name in names]
    return Split(items, gallery=True)
