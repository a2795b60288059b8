"""Draw samples of shards on a contact sheet: images with captions, compositions as they go."""

import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from shards.picture import PictureError, decode, on_white
from shards.sample import (
    IMAGE_FEATURES,
    PLAIN,
    SOURCE,
    TARGET,
    SampleError,
    image_extensions,
    is_composed,
    read_captions,
    read_record,
)
from xmodal.data.manifest import Manifest, read_manifest
from xmodal.data.storage import Storage, is_remote
from xmodal.data.tar import Sample
from xmodal.errors import UserError

_SIDE = 240  # pixels of an image's cell
_GAP = 16
_TEXT_SIZE = 13
_LINE = 17
_CHARACTERS = 34  # that fit in a cell's width
_MAX_LINES = 12
_COLUMNS = 4


def show(url: str, count: int, to: Path | None) -> Path:
    """Draw `count` samples, evenly spread over the shards, into a PNG; returns its path."""
    to = to or (Path() if is_remote(url) else Path(url)) / "contact_sheet.png"
    manifest = read_manifest(url)
    tiles = [_tile(files) for files in _spread(manifest, count)]
    try:
        sheet(tiles).save(to, "PNG")
    except OSError as error:
        raise UserError(f"{to} cannot be written: {error.strerror}") from None
    print(f"{len(tiles)} of {manifest.num_samples:,} samples drawn in {to}")
    return to


def sheet(tiles: list[Image.Image]) -> Image.Image:
    """Lay tiles out in rows of at most the width of four images."""
    columns = max(1, (_COLUMNS * (_SIDE + _GAP)) // (tiles[0].width + _GAP))
    rows = [tiles[first : first + columns] for first in range(0, len(tiles), columns)]
    return _stacked([_beside(row) for row in rows], margin=_GAP)


def _spread(manifest: Manifest, count: int) -> list[dict[str, bytes]]:
    total = manifest.num_samples
    count = min(count, total)
    wanted = [position * total // count for position in range(count)]
    found, first = [], 0
    for shard in manifest.shards:
        inside = [at - first for at in wanted if first <= at < first + shard.num_samples]
        samples = manifest.index(shard) if inside else []
        found += [_files(manifest.storage, shard.url, samples[at]) for at in inside]
        first += shard.num_samples
    return found


def _files(storage: Storage, url: str, sample: Sample) -> dict[str, bytes]:
    return {
        extension: storage.read(url, offset, offset + size)
        for extension, (offset, size) in sample.members.items()
    }


def _tile(files: dict[str, bytes]) -> Image.Image:
    images = image_extensions(files)
    if is_composed(images):
        source, target = (
            _picture(files.get(role + images.get(role, ""), b"")) for role in (SOURCE, TARGET)
        )
        return _beside([source, _text(_sentences(files), arrow=True), target])
    if PLAIN not in images and IMAGE_FEATURES in files:
        return _stacked([_grey("features"), _text(_sentences(files))])
    return _stacked([_picture(files.get(images.get(PLAIN, ""), b"")), _text(_sentences(files))])


def _sentences(files: dict[str, bytes]) -> list[str]:
    try:
        record = read_record(files["json"]) if "json" in files else {}
        if "modification" in record:
            return [str(record["modification"])]
        return read_captions(record, files.get("txt"))
    except SampleError as error:
        return [f"({error.cause})"]


def _picture(data: bytes) -> Image.Image:
    cell = Image.new("RGB", (_SIDE, _SIDE), "white")
    try:
        image = on_white(decode(data))
    except PictureError as error:
        return _grey(error.cause)
    image = ImageOps.contain(image, cell.size)
    cell.paste(image, ((_SIDE - image.width) // 2, _SIDE - image.height))
    return cell


def _grey(why: str) -> Image.Image:
    cell = Image.new("RGB", (_SIDE, _SIDE), "lightgrey")
    ImageDraw.Draw(cell).text((8, 8), why, "black", _font())
    return cell


def _text(sentences: list[str], arrow: bool = False) -> Image.Image:
    lines = []
    for sentence in sentences:
        lines += textwrap.wrap(sentence, _CHARACTERS, initial_indent="- ", subsequent_indent="  ")
    if len(lines) > _MAX_LINES:
        lines[_MAX_LINES - 1 :] = ["…"]
    cell = Image.new("RGB", (_SIDE, max(_LINE * len(lines), _SIDE if arrow else 0)), "white")
    pen = ImageDraw.Draw(cell)
    top = (cell.height - _LINE * len(lines)) // 2 if arrow else 0
    for number, line in enumerate(lines):
        pen.text((0, top + number * _LINE), line, "black", _font())
    if arrow:
        y = top + _LINE * (len(lines) + 1)
        pen.line([(0, y), (_SIDE - 10, y)], "black", 2)
        pen.polygon([(_SIDE - 10, y - 6), (_SIDE, y), (_SIDE - 10, y + 6)], "black")
    return cell


def _beside(images: list[Image.Image]) -> Image.Image:
    width = sum(image.width + _GAP for image in images) - _GAP
    row = Image.new("RGB", (width, max(image.height for image in images)), "white")
    x = 0
    for image in images:
        row.paste(image, (x, 0))
        x += image.width + _GAP
    return row


def _stacked(images: list[Image.Image], margin: int = 0) -> Image.Image:
    width = max(image.width for image in images) + 2 * margin
    height = sum(image.height + _GAP for image in images) - _GAP + 2 * margin
    column = Image.new("RGB", (width, height), "white")
    y = margin
    for image in images:
        column.paste(image, (margin, y))
        y += image.height + _GAP
    return column


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_TEXT_SIZE)
