"""Wikipedia as a source of shards."""

import html
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

from shards.annotations import read_lines
from shards.source import Item, SkippedSample, SourceConfig, Split, Splits, require
from xmodal.errors import UserError

LAYOUT = """
the folder wikipedia_dataset as published
  images/CLASS/IMAGE.jpg       art, biology, geography, history, literature, media, music, royalty,
                               sport and warfare
  texts/TEXT.xml               the section, in its element <text>: the caption
  trainset_txt_img_cat.list    lines TEXT<TAB>IMAGE<TAB>number of the class, from 1: 2,173 pairs
  testset_txt_img_cat.list     693
Labels are the classes; the id of an image is CLASS/IMAGE. The splits are train and test.
"""


class WikipediaConfig(SourceConfig):
    """Wikipedia: 2,866 sections of featured articles in 10 classes, each with its one image."""

    kind: Literal["wikipedia"] = "wikipedia"
    layout: ClassVar[str] = LAYOUT
    builds: ClassVar[str] = "read"


SPLITS = ("train", "test")
_CLASSES = (
    *("art", "biology", "geography", "history", "literature"),
    *("media", "music", "royalty", "sport", "warfare"),
)
# Some files are broken XML in what surrounds the text, or in the text's own `&`.
_TEXT = re.compile(r"<text>(.*)</text>", re.DOTALL)


def read(root: Path) -> Splits:
    """Find the splits train and test."""
    require(root, "images")
    require(root, "texts")
    return {split: partial(_split, root, split) for split in SPLITS}


@dataclass(frozen=True)
class Pair:
    """A line of the lists: a section, its image and their class."""

    text: str
    image: str
    category: str


def read_list(root: Path, split: str) -> list[Pair]:
    """Read the pairs of a split, in the order of the features."""
    path = require(root, f"{split}set_txt_img_cat.list")
    return [_pair(line, path) for line in read_lines(path)]


def _pair(line: str, path: Path) -> Pair:
    words = line.split()
    numbers = [str(number) for number in range(1, len(_CLASSES) + 1)]
    if len(words) != 3 or words[2] not in numbers:
        raise UserError(f"{path} has a line that is not TEXT<TAB>IMAGE<TAB>class: {line[:80]!r}")
    return Pair(words[0], words[1], _CLASSES[int(words[2]) - 1])


def _split(root: Path, split: str) -> Split:
    captions = defaultdict(list)
    skipped: list[SkippedSample] = []
    for pair in read_list(root, split):
        path = root / f"texts/{pair.text}.xml"
        text = _read_text(path)
        if text:
            captions[pair.category, pair.image].append(text)
        else:
            skipped.append((pair.text, "text missing or broken", str(path)))
    items = [
        Item(f"{category}/{image}", root / f"images/{category}/{image}.jpg", said, [category])
        for (category, image), said in captions.items()
    ]
    return Split(items, skipped=skipped)


def _read_text(path: Path) -> str | None:
    try:
        match = _TEXT.search(path.read_bytes().decode())
    except (OSError, UnicodeDecodeError):
        return None
    return " ".join(html.unescape(match[1]).split()) if match else None
