"""Open Clip Art as a source of shards."""

import hashlib
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

from shards.by_caption import splits_by_caption
from shards.picture import file_on_white
from shards.source import Item, SourceConfig, Splits, require

LAYOUT = """
usr/share/openclipart/png/CLASS/**/*.png  the drawings
usr/share/openclipart/svg/CLASS/**/*.svg  their titles, keywords and licences
as the Debian packages hold them:
  apt-get download openclipart-png openclipart-svg
  for package in openclipart-*.deb; do dpkg -x $package DIR; done
Left out: what does not say that it is in the public domain, icons and buttons (the classes
buttons, computer, logos, special and shapes/stars), copies of the same picture, titles that
name a collection. Drawings stand on white. Labels are the classes. The splits train, val and
test (80, 10, 10 %) never share a caption.
"""


class OpenclipartConfig(SourceConfig):
    """Open Clip Art: 3,700 public domain drawings in 18 classes, with titles and keywords."""

    kind: Literal["openclipart"] = "openclipart"
    layout: ClassVar[str] = LAYOUT
    builds: ClassVar[str] = "read"


_DUBLIN_CORE = "{http://purl.org/dc/elements/1.1/}"
_CREATIVE_COMMONS = "{http://web.resource.org/cc/}"
_RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
_PUBLIC_DOMAIN = re.compile("public ?domain", re.IGNORECASE)
_NO_PICTURES_OF_THINGS = re.compile("(buttons|computer|logos|special|shapes/stars)/")
_GENERIC_TITLE = re.compile("gramastar|part of the flat icon|lemon svg theme", re.IGNORECASE)
_BROKEN_KEYWORD = re.compile(r"(hash\()?0x[0-9a-f]+\)?")  # addresses that a script left


def read(root: Path) -> Splits:
    """Find the clean part of the drawings and split it by caption."""
    drawings = require(root, "usr/share/openclipart/png")
    descriptions = require(root, "usr/share/openclipart/svg")
    return splits_by_caption(_items(drawings, descriptions))


def _items(drawings: Path, descriptions: Path) -> Iterator[Item]:
    seen = set()
    for drawing in sorted(drawings.rglob("*.png")):
        place = drawing.relative_to(drawings)
        if _NO_PICTURES_OF_THINGS.match(place.as_posix()):
            continue
        caption = _caption(descriptions / place.with_suffix(".svg"))
        digest = hashlib.sha256(drawing.read_bytes()).digest()
        if caption is None or digest in seen:
            continue
        seen.add(digest)
        image_id = place.with_suffix("").as_posix()
        yield Item(image_id, partial(file_on_white, drawing), [caption], [place.parts[0]])


def _caption(description: Path) -> str | None:
    """The title and keywords; None without a title, or without a licence to use the drawing."""
    try:
        work = ET.parse(description).find(f".//{_CREATIVE_COMMONS}Work")
    except (OSError, ET.ParseError):
        return None
    if work is None or not _is_public_domain(work):
        return None
    title = _words(work.findtext(f"{_DUBLIN_CORE}title"))
    if not title or _GENERIC_TITLE.match(title):
        return None
    listed = work.iterfind(f"{_DUBLIN_CORE}subject//{_RDF}li")
    keywords = [word for li in listed if (word := _words(li.text))]
    said = [word for word in keywords if not _BROKEN_KEYWORD.fullmatch(word)]
    return f"{title}: {', '.join(said)}" if said else title


def _is_public_domain(work: ET.Element) -> bool:
    licences = [tag.get(f"{_RDF}resource", "") for tag in work.iter(f"{_CREATIVE_COMMONS}license")]
    return bool(licences) and all(_PUBLIC_DOMAIN.search(licence) for licence in licences)


def _words(text: str | None) -> str:
    return " ".join((text or "").replace("_", " ").split())
