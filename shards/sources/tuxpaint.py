"""Tux Paint stamps as a source of shards."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

from shards.by_caption import splits_by_caption
from shards.languages import language_codes
from shards.picture import file_on_white
from shards.source import Item, SourceConfig, Splits, require
from xmodal.errors import UserError

LAYOUT = """
usr/share/tuxpaint/stamps/CLASS/**/*.png  the stamps
usr/share/tuxpaint/stamps/CLASS/**/*.txt  what they show; the first line is English
as the Debian package holds them:
  apt-get download tuxpaint-stamps-default && dpkg -x tuxpaint-stamps-default_*.deb DIR
Left out: the class symbols (letters, coins) and stamps that are SVG only. Stamps stand on
white. Labels are the classes. languages=zh_CN,de adds the sentences in these languages under
their codes in each sample's JSON, where a stamp has them. The splits train, val and test (80,
10, 10 %) never share a caption.
"""


class TuxpaintConfig(SourceConfig):
    """Tux Paint stamps: 500 cut-out photographs and drawings of things, one English sentence
    each, and sentences in 70 languages.
    """

    kind: Literal["tuxpaint"] = "tuxpaint"
    languages: str = ""
    layout: ClassVar[str] = LAYOUT
    builds: ClassVar[str] = "read"


def read(root: Path, *, languages: str = "") -> Splits:
    """Find the stamps that have a text and split them by caption."""
    codes = language_codes("languages", languages)
    return splits_by_caption(_items(require(root, "usr/share/tuxpaint/stamps"), codes))


def _items(stamps: Path, codes: Sequence[str]) -> Iterator[Item]:
    for stamp in sorted(stamps.rglob("*.png")):
        place = stamp.relative_to(stamps)
        text = stamp.with_suffix(".txt")
        if place.parts[0] == "symbols" or not text.exists():
            continue
        image_id = place.with_suffix("").as_posix()
        english, others = _lines(text)
        details = {code: [_decoded(others[code], text, code)] for code in codes if code in others}
        captions = [_decoded(english, text, "first")]
        picture = partial(file_on_white, stamp)
        yield Item(image_id, picture, captions, [place.parts[0]], details=details)


def _lines(file: Path) -> tuple[bytes, dict[str, bytes]]:
    """Return the first line, and the text of each further language by its code."""
    first, *others = file.read_bytes().split(b"\n")
    parts = (line.partition(b".utf8=") for line in others)
    found = {code.decode("latin-1"): text for code, _, text in parts if text.strip()}
    return first, found


def _decoded(line: bytes, file: Path, name: str) -> str:
    try:
        return line.decode().strip()
    except UnicodeDecodeError:
        raise UserError(f"the {name} line of {file} is not UTF-8") from None
