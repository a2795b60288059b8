"""CSS as a source of shards."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from shards.pickled import read_pickled
from shards.source import Composed, Item, SourceConfig, Split, Splits, require
from xmodal.errors import UserError

LAYOUT = """
css_toy_dataset_novel2_small.dup.npy  the changes; a pickle, of which only arrays are read
images/css_train_NNNNNN.png           the scenes in three dimensions
images/css_test_NNNNNN.png
Nothing is drawn by lot: each published pair of scenes is a query.

train         a scene, its change in words, the scene so changed
test          the same; target_ids are all scenes of the label asked for, that is, of that look
test_gallery  the scenes of test without captions; their labels are the published ones, or
              where there are none the scene's number
"""


class CssConfig(SourceConfig):
    """CSS: rendered scenes of simple shapes, each with a change, as composed queries."""

    kind: Literal["css"] = "css"
    layout: ClassVar[str] = LAYOUT
    builds: ClassVar[str] = "read"


def read(root: Path) -> Splits:
    """Find the splits train, test and test_gallery."""
    path = require(root, "css_toy_dataset_novel2_small.dup.npy")
    images = require(root, "images")
    return {
        "train": lambda: _Scenes(path, images, "train").queries(),
        "test": lambda: _Scenes(path, images, "test").queries(with_all_right=True),
        "test_gallery": lambda: _Scenes(path, images, "test").gallery(),
    }


class _Scenes:
    """The scenes of a split: their labels, and the pairs of them that each change links."""

    def __init__(self, path: Path, images: Path, split: str):
        document = _read(path, split)
        count = len(document["objects_img"])
        self.images = images
        self.split = split
        self.labels = [str(label) for label in document.get("labels", range(count))]
        self.changes: Sequence[Mapping[str, Any]] = document["mods"]
        numbers = [number for change in self.changes for number in (*change["from"], *change["to"])]
        if len(self.labels) != count or not all(0 <= number < count for number in numbers):
            raise UserError(f"{path} names scenes of {split} other than the {count:,} it has")

    def queries(self, with_all_right: bool = False) -> Split:
        by_label = defaultdict(list)
        for number, label in enumerate(self.labels):
            by_label[label].append(self._id(number))
        return Split(
            [
                Composed(
                    self._id(source),
                    self._picture(source),
                    change["to_str"],
                    self._id(target),
                    self._picture(target),
                    {"target_ids": by_label[self.labels[target]]} if with_all_right else {},
                )
                for change in self.changes
                for source, target in zip(change["from"], change["to"], strict=True)
            ]
        )

    def gallery(self) -> Split:
        items = [
            Item(self._id(number), self._picture(number), [], [label])
            for number, label in enumerate(self.labels)
        ]
        return Split(items, gallery=True)

    def _id(self, number: int) -> str:
        return f"css_{self.split}_{number:06d}"

    def _picture(self, number: int) -> Path:
        return self.images / f"{self._id(number)}.png"


def _read(path: Path, split: str) -> Mapping[str, Any]:
    document = read_pickled(path)
    try:
        scenes = document[split]
        for change in scenes["mods"]:
            if len(change["from"]) != len(change["to"]) or not isinstance(change["to_str"], str):
                raise TypeError("pairs of scenes and a text in each of mods")
        return {"objects_img": scenes["objects_img"], **scenes}
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(f"{path} is not CSS's (no {error})") from None
