"""Images as stored: the original bytes, re-encoded only if necessary."""

import io
from pathlib import Path

from PIL import Image

from xmodal.data.decode import BadSample, open_image

_EXTENSIONS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}
_JPEG_QUALITY = 95


def stored(data: bytes, shorter_side: int | None) -> tuple[str, bytes]:
    """Return an image's extension, by its content, and the bytes to store; raises `BadSample`.

    The bytes are the original ones, unless the shorter side exceeds `shorter_side` (then a smaller
    JPEG) or shards do not support the format (then a PNG). Re-encoded are the pixels that training
    would see.
    """
    if not data:
        raise BadSample("image is empty")
    image = open_image(data)
    pixels = image.pixels()
    if shorter_side is not None and min(pixels.shape[:2]) > shorter_side:
        return "jpg", _encode(_shrunk(Image.fromarray(pixels), shorter_side), "JPEG")
    if image.kind in _EXTENSIONS:
        return _EXTENSIONS[image.kind], data
    return "png", _encode(Image.fromarray(pixels), "PNG")


def file_on_white(path: Path) -> bytes:
    """Return the file's bytes or, if it is transparent, a PNG of it on white."""
    data = path.read_bytes()
    image = open_image(data)
    return _encode(Image.fromarray(image.pixels()), "PNG") if image.transparent else data


def _shrunk(image: Image.Image, shorter_side: int) -> Image.Image:
    scale = shorter_side / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS)


def _encode(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=_JPEG_QUALITY)
    return buffer.getvalue()
