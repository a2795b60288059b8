"""Contact sheet of samples: images with captions, or composed queries."""

import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from xmodal.data.decode import BadSample, decode_image
from xmodal.data.manifest import Manifest, read_manifest
from xmodal.data.samples import IMAGES, RawSample, read_sample
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
    tiles = [_tile(sample) for sample in _spread(manifest, count)]
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


def _spread(manifest: Manifest, count: int) -> list[RawSample]:
    total = manifest.num_samples
    count = min(count, total)
    wanted = [position * total // count for position in range(count)]
    found, first = [], 0
    for shard in manifest.shards:
        inside = [at - first for at in wanted if first <= at < first + shard.num_samples]
        samples = manifest.index(shard) if inside else []
        found += [_read(manifest.storage, shard.url, samples[at]) for at in inside]
        first += shard.num_samples
    return found


def _read(storage: Storage, url: str, sample: Sample) -> RawSample:
    return read_sample(url, *sample, lambda at, size: storage.read(url, at, at + size))


def _tile(sample: RawSample) -> Image.Image:
    if any(name in sample.files for role in ("source", "target") for name in IMAGES[role]):
        source, target = (_picture(sample, role) for role in ("source", "target"))
        return _beside([source, _text(_sentences(sample), arrow=True), target])
    return _stacked([_picture(sample, "image"), _text(_sentences(sample))])


def _sentences(sample: RawSample) -> list[str]:
    try:
        return sample.captions()
    except BadSample as cause:
        return [f"({cause})"]


def _picture(sample: RawSample, role: str) -> Image.Image:
    cell = Image.new("RGB", (_SIDE, _SIDE), "white")
    if f"{role}.npy" in sample.files and not any(name in sample.files for name in IMAGES[role]):
        return _grey("features")
    try:
        image = Image.fromarray(decode_image(sample.image(role)))
    except BadSample as cause:
        return _grey(str(cause))
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
