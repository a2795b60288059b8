"""Images as found and as stored: decoded to the last byte, re-encoded only where they must be."""

import io
import warnings
from pathlib import Path

from PIL import Image, UnidentifiedImageError

# What is opened: formats that photographs come in, none whose reader starts other programs.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
_JPEG_QUALITY = 95


class PictureError(Exception):
    """An image that cannot be used: `cause` is one of a few, `detail` says what was met."""

    def __init__(self, cause: str, detail: str = ""):
        super().__init__(cause, detail)
        self.cause = cause
        self.detail = detail


def decode(data: bytes) -> Image.Image:
    """Decode the whole image; raises `PictureError`."""
    if not data:
        raise PictureError("zero bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=_FORMATS)
            image.load()
    except UnidentifiedImageError:
        raise PictureError("not an image", _beginning(data)) from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise PictureError(f"over {Image.MAX_IMAGE_PIXELS:,} pixels") from None
    except Exception as error:  # Pillow's readers raise whatever the bytes lead them to.
        raise PictureError("does not decode", str(error)) from None
    return image


def stored(data: bytes, shorter_side: int | None) -> tuple[str, bytes]:
    """Give an image's extension, by its content, and the bytes to store; raises `PictureError`.

    They are the bytes as found, unless the shorter side is longer than `shorter_side` (then a
    smaller JPEG) or the format is none that shards hold (then a PNG).
    """
    image = decode(data)
    if shorter_side is not None and min(image.size) > shorter_side:
        return "jpg", _encode(_shrunk(on_white(image), shorter_side), "JPEG")
    if image.format in EXTENSIONS:
        return EXTENSIONS[image.format], data
    return "png", _encode(on_white(image), "PNG")


def on_white(image: Image.Image) -> Image.Image:
    """The image in RGB; what is transparent shows a white ground."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    ground = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")


def file_on_white(path: Path) -> bytes:
    """The file's bytes, or where it is transparent a PNG of it on a white ground."""
    data = path.read_bytes()
    image = decode(data)
    return _encode(on_white(image), "PNG") if image.has_transparency_data else data


def _shrunk(image: Image.Image, shorter_side: int) -> Image.Image:
    scale = shorter_side / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS)


def _encode(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=_JPEG_QUALITY)
    return buffer.getvalue()


def _beginning(data: bytes) -> str:
    return f"begins with {data[:16]!r}"
