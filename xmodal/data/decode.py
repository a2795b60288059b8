"""From an image's bytes to pixels, in two steps: the size from the header, then what is needed."""

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal

import numpy as np
import simplejpeg
from PIL import ExifTags, Image, UnidentifiedImageError

from xmodal.data.limits import MAX_PIXELS

Reduction = Literal[1, 2, 4, 8]

# What Pillow opens: formats that photographs come in, none whose reader starts other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
PILLOWS_MAX_PIXELS = 178_956_970  # above which Pillow opens nothing, whatever the limit here


class BadSample(Exception):
    """A sample that cannot be used; the message is the cause, without place or key."""

    by_choice = False


class LeftOut(BadSample):
    """A sample that the recipe leaves out: nothing is wrong with it."""

    by_choice = True


class EncodedImage:
    """An image whose size is known and whose pixels wait, both as a person sees them."""

    def __init__(
        self,
        height: int,
        width: int,
        orientation: int,
        decode: Callable[[Reduction], np.ndarray],
    ) -> None:
        self.height, self.width = (width, height) if orientation >= 5 else (height, width)
        self._orientation = orientation
        self._decode = decode
        self._pixels: dict[int, np.ndarray] = {}

    def pixels(self, reduce: Reduction = 1) -> np.ndarray:
        """Return (height, width, 3) uint8 RGB, both sides divided by `reduce`, rounded up.

        Decodes once: further calls, as for another view, return the same array. Raises `BadSample`
        for what is broken or cut.
        """
        if reduce not in self._pixels:
            self._pixels[reduce] = _upright(self._decode(reduce), self._orientation)
        return self._pixels[reduce]


def open_image(data: bytes, *, max_pixels: int = MAX_PIXELS, min_side: int = 1) -> EncodedImage:
    """Read an image's header; JPEG through simplejpeg, all else, and what it refuses, by Pillow.

    Raises `BadSample` for what is no image, and, before anything is decoded, for one of more than
    `max_pixels` or with a side shorter than `min_side`: `LeftOut`, where it is the recipe's limit.
    """
    if data.startswith(b"\xff\xd8\xff"):
        try:
            height, width, *_ = simplejpeg.decode_jpeg_header(data)
        except ValueError:
            return _open_with_pillow(data, max_pixels, min_side)
        _check_size(height, width, max_pixels, min_side)
        return EncodedImage(height, width, _jpeg_orientation(data), partial(_decode_jpeg, data))
    return _open_with_pillow(data, max_pixels, min_side)


def decode_image(data: bytes) -> np.ndarray:
    """Return all pixels of an encoded image, (height, width, 3) uint8 RGB; `BadSample` if not."""
    return open_image(data).pixels()


def _check_size(height: int, width: int, max_pixels: int, min_side: int) -> None:
    if height * width > max_pixels:
        # Above the limit that no recipe has set it is a bomb, below it somebody's choice.
        kind = LeftOut if max_pixels < MAX_PIXELS else BadSample
        raise kind(f"image is too large (over {max_pixels:,} pixels)")
    if min(height, width) < min_side:
        raise LeftOut(f"image is too small (a side under {min_side} pixels)")


def _decode_jpeg(data: bytes, reduce: Reduction) -> np.ndarray:
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
        # The smallest scale of libjpeg's that is no smaller than this is 1 / reduce.
        return simplejpeg.decode_jpeg(
            data, "RGB", min_height=-(-height // reduce), min_width=-(-width // reduce)
        )
    except ValueError:
        # Also raised for what other readers only warn of: Pillow decides.
        with _pillow():
            return _rgb(Image.open(io.BytesIO(data), formats=FORMATS), reduce)


def _open_with_pillow(data: bytes, max_pixels: int, min_side: int) -> EncodedImage:
    with _pillow():
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    # A TIFF has been turned by Pillow, and its size with it.
    height, width = image.height, image.width
    _check_size(height, width, max_pixels, min_side)
    orientation = 1 if image.format == "TIFF" else _exif_orientation(image.getexif)

    return EncodedImage(height, width, orientation, partial(_decode_with_pillow, image))


def _decode_with_pillow(image: Image.Image, reduce: Reduction) -> np.ndarray:
    with _pillow():
        return _rgb(image, reduce)


def _rgb(image: Image.Image, reduce: Reduction) -> np.ndarray:
    """Return the pixels of an image's first frame, (height, width, 3) uint8."""
    if image.mode in ("I", "F"):
        raise BadSample("image does not decode (32-bit values, of no known range)")
    if image.mode.startswith("I;16"):
        # Pillow would clip 16 bits to 8, which leaves a white image.
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    image = image.convert("RGB")
    return np.array(image if reduce == 1 else image.reduce(reduce))


@contextmanager
def _pillow() -> Iterator[None]:
    """Keep Pillow's warnings from the terminal; raise `BadSample` for its errors, with few causes.

    What is particular to a file stays in the exception's cause.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except BadSample:
            raise
        except UnidentifiedImageError as error:
            raise BadSample("image does not decode (not an image)") from error
        except Image.DecompressionBombError as error:
            raise BadSample(f"image is too large (over {PILLOWS_MAX_PIXELS:,} pixels)") from error
        except Exception as error:  # Pillow's readers raise whatever the bytes lead them to.
            cut = "truncated" in str(error).lower()
            cause = "cut short" if cut else "broken data"
            raise BadSample(f"image does not decode ({cause})") from error


def _jpeg_orientation(data: bytes) -> int:
    """Return the orientation, 1 to 8, that a JPEG's Exif segment says; 1 where there is none."""
    at = 2
    # Segments, each a mark of two bytes and a size, stand before the scan.
    while (mark := data[at : at + 2]).startswith(b"\xff") and mark != b"\xff\xda":
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if mark == b"\xff\xe1" and data.startswith(b"Exif\0\0", at + 4):
            return _exif_orientation(partial(_exif, data[at + 4 : end]))
        at = end
    return 1


def _exif(segment: bytes) -> Image.Exif:
    exif = Image.Exif()
    exif.load(segment)
    return exif


def _exif_orientation(read: Callable[[], Image.Exif]) -> int:
    try:
        with _pillow():
            orientation: object = read().get(ExifTags.Base.Orientation)
    except BadSample:
        return 1  # broken Exif, or broken pixels, which show when they are decoded
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    if orientation == 1:
        return pixels
    turned = pixels.swapaxes(0, 1) if orientation >= 5 else pixels
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(turned[::rows, ::columns])
