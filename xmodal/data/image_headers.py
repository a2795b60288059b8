"""Image headers, read before pixels are decoded: segments, chunks and tags.

Broken headers raise nothing here: the decoder reports them.
"""

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from xmodal.data.limits import MAX_HEADERS

_ORIENTATION = 0x0112
_NUMBERS = {1: "B", 3: "H", 4: "I"}  # the types of a tag that an orientation may have
# Bytes that a value takes, by the type of its tag.
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_XMP = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')


class JpegHeader(NamedTuple):
    """Header of a JPEG before its first scan."""

    orientation: int = 1  # that its Exif says
    scan: int = 0  # the place of the first scan's mark
    progressive: bool = False
    several_scans: bool = False  # so that each one goes over the whole image


class Tag(NamedTuple):
    """Tag in the first directory of a TIFF."""

    number: int
    kind: int
    values: int  # how many
    value: bytes  # the values where they are short, else their place

    @property
    def size(self) -> int:
        """Number of bytes of its values."""
        return self.values * _BYTES.get(self.kind, 1)


def read_jpeg_header(data: bytes) -> JpegHeader:
    """Read a JPEG's segments up to its first scan."""
    orientation, components, progressive = 1, 0, False
    at = 2
    # Segments, each a mark of two bytes and a size, stand before the scan.
    for _ in range(MAX_HEADERS):
        mark = data[at + 1] if data[at : at + 1] == b"\xff" and at + 10 < len(data) else 0
        if mark == 0xFF:  # fills
            at += 1
            continue
        if mark == 0xDA:
            several = progressive or data[at + 4] < components
            return JpegHeader(orientation, at, progressive, several)
        if not mark:
            break
        end = at + 2 + (data[at + 2] << 8) + data[at + 3]
        if mark == 0xE1 and data.startswith(b"Exif\0\0", at + 4):
            orientation = exif_orientation(data[at + 4 : end])
        elif 0xC0 <= mark <= 0xCF and mark not in (0xC4, 0xC8, 0xCC):
            components, progressive = data[at + 9], mark & 3 == 2
        at = end
    return JpegHeader(orientation)


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the name of each complete chunk of a PNG, with the start and end of its data."""
    at = 8
    for _ in range(MAX_HEADERS):
        if at + 12 > len(data):
            return
        size, name = struct.unpack_from(">I4s", data, at)
        if at + 12 + size > len(data):
            return
        yield name, at + 8, at + 8 + size
        at += 12 + size


def tiff_tags(data: bytes) -> Iterator[Tag]:
    """Yield the tags in the first directory of a TIFF or of Exif; none for other data."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    try:
        if order is None:
            return
        (version,) = struct.unpack_from(f"{order}H", data, 2)
        place, number, entry = ("QQ", "Q", "HHQ8s") if version == 43 else ("I", "H", "HHI4s")
        start = struct.unpack_from(order + place, data, 8 if version == 43 else 4)[0]
        (count,) = struct.unpack_from(order + number, data, start)
    except struct.error:
        return
    start += struct.calcsize(order + number)
    size = struct.calcsize(order + entry)
    whole = max(0, min(count, (len(data) - start) // size, MAX_HEADERS))
    for values in struct.iter_unpack(order + entry, data[start : start + whole * size]):
        yield Tag(*values)


def exif_orientation(exif: bytes) -> int:
    """Return the orientation, 1 to 8, in an Exif block; 1 by default."""
    tiff = exif.removeprefix(b"Exif\0\0")
    for tag in tiff_tags(tiff):
        if tag.number == _ORIENTATION and tag.values == 1 and tag.kind in _NUMBERS:
            order = "<" if tiff.startswith(b"II") else ">"
            (said,) = struct.unpack_from(order + _NUMBERS[tag.kind], tag.value)
            return said if 1 <= said <= 8 else 1
    return 1


def xmp_orientation(xmp: bytes) -> int:
    """Return the orientation, 1 to 8, in XMP; 1 by default."""
    said = _XMP.search(xmp)
    return int(said[1]) if said else 1
