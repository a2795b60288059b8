"""Tux Paint stamps as a source of shards."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

from shards.by_caption import splits_by_caption
from shards.picture import file_on_white
from shards.source import Item, SourceConfig, Splits, require
from xmodal.errors import UserError

LAYOUT = """
usr/share/tuxpaint/stamps/CLASS/**/*.png  the stamps
usr/share/tuxpaint/stamps/CLASS/**/*.txt  what they show; the first line is English
as the Debian package holds them:
  apt-get download tuxpaint-stamps-default && dpkg -x tuxpaint-stamps-default_*.deb DIR
Left out: the class symbols (letters, coins) and stamps that are SVG only. Stamps stand on
white. Labels are the classes. The splits train, val and test (80, 10, 10 %) never share a
caption.
"""


class TuxpaintConfig(SourceConfig):
    """Tux Paint stamps: 500 cut-out photographs and drawings of things, one English sentence
    each.
    """

    kind: Literal["tuxpaint"] = "tuxpaint"
    layout: ClassVar[str] = LAYOUT
    builds: ClassVar[str] = "read"


def read(root: Path) -> Splits:
    """Find the stamps that have a text and split them by caption."""
    return splits_by_caption(_items(require(root, "usr/share/tuxpaint/stamps")))


def _items(stamps: Path) -> Iterator[Item]:
    for stamp in sorted(stamps.rglob("*.png")):
        place = stamp.relative_to(stamps)
        text = stamp.with_suffix(".txt")
        if place.parts[0] == "symbols" or not text.exists():
            continue
        image_id = place.with_suffix("").as_posix()
        yield Item(image_id, partial(file_on_white, stamp), [_english(text)], [place.parts[0]])


def _english(text: Path) -> str:
    try:
        return text.read_bytes().split(b"\n")[0].decode().strip()
    except UnicodeDecodeError:
        raise UserError(f"the first line of {text} is not UTF-8") from None
