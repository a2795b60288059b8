"""Pascal Sentence as a source of shards."""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import ClassVar, Literal

from shards.annotations import read_lines, splits_of
from shards.source import Item, SourceConfig, Splits, require
from xmodal.errors import UserError

LAYOUT = """
the page as it is published, with its images
  CLASS/ID.jpg            the photographs
  index.html              or pascal-sentences.html: a table of them with their sentences
or what the usual download script makes of it
  dataset/CLASS/ID.jpg    the photographs
  sentence/CLASS/IDtxt    a sentence a line; ID.txt is right too
Labels are the classes; the id of an image is CLASS/ID. No splits are published: of each class 80 %
are drawn for train, 10 % for val and 10 % for test (800, 100 and 100 in all) with `seed`.
"""


class PascalConfig(SourceConfig):
    """Pascal Sentence: 1,000 photographs in 20 classes, five English sentences each."""

    kind: Literal["pascal"] = "pascal"
    seed: int = 0
    layout: ClassVar[str] = LAYOUT
    builds: ClassVar[str] = "read"


def read(root: Path, *, seed: int = 0) -> Splits:
    """Find the photographs with their sentences and draw the splits."""
    if (root / "sentence").exists():
        return _draw_splits(_read_files(root / "sentence", require(root, "dataset")), seed)
    page = require(root, "index.html", "pascal-sentences.html", "sentence")
    return _draw_splits(_read_page(page), seed)


def _read_files(sentences: Path, photographs: Path) -> list[Item]:
    captions: dict[Path, list[str]] = {path: [] for path in photographs.glob("*/*.jpg")}
    for path in sentences.glob("*/*txt"):
        stem = path.name.removesuffix("txt").removesuffix(".")
        captions[photographs / path.parent.name / f"{stem}.jpg"] = read_lines(path)
    return [_item(path, captions[path]) for path in sorted(captions)]


def _read_page(page: Path) -> list[Item]:
    table = _Table()
    table.feed("\n".join(read_lines(page)))
    if not table.sentences:
        raise UserError(f"{page} has no table of images with sentences")
    return [_item(page.parent / name, said) for name, said in sorted(table.sentences.items())]


class _Table(HTMLParser):
    """Collects each image's sentences: the cells with text that follow it."""

    def __init__(self) -> None:
        super().__init__()
        self.sentences: dict[str, list[str]] = {}
        self._image = ""
        self._text = ""

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self._end_cell(tag)
        source = dict(attrs).get("src")
        if tag == "img" and source:
            self._image = "/".join(PurePosixPath(source).parts[-2:])
            self.sentences.setdefault(self._image, [])

    def handle_data(self, data: str) -> None:
        self._text += data

    def handle_endtag(self, tag: str) -> None:
        self._end_cell(tag)

    def _end_cell(self, tag: str) -> None:
        # Whether cells and rows are closed or not, the next one's tag ends their text.
        if tag not in ("table", "tbody", "tr", "td", "img"):
            return
        sentence = " ".join(self._text.split())
        if sentence and self._image:
            self.sentences[self._image].append(sentence)
        self._text = ""


def _item(picture: Path, sentences: Sequence[str]) -> Item:
    category = picture.parent.name
    return Item(f"{category}/{picture.stem}", picture, sentences, [category])


def _draw_splits(items: Sequence[Item], seed: int) -> Splits:
    splits: Mapping[str, list[Item]] = {"train": [], "val": [], "test": []}
    classes = defaultdict(list)
    for item in items:
        classes[item.labels[0]].append(item)
    for name, members in classes.items():
        drawn = random.Random(f"{seed}/{name}").sample(members, len(members))
        tenth = len(members) // 10
        splits["val"].extend(drawn[:tenth])
        splits["test"].extend(drawn[tenth : 2 * tenth])
        splits["train"].extend(drawn[2 * tenth :])
    return splits_of(
        {name: sorted(kept, key=lambda i: i.image_id) for name, kept in splits.items()}
    )
