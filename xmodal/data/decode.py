"""Decoding of images in two steps: the size from the header, then the pixels of a crop."""

import io
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import numpy as np
import simplejpeg
from PIL import Image, ImageFile, UnidentifiedImageError

from xmodal.data.image_headers import (
    JpegHeader,
    exif_orientation,
    png_chunks,
    read_jpeg_header,
    tiff_tags,
    xmp_orientation,
)
from xmodal.data.limits import MAX_PIXELS, MAX_SCANNED_PIXELS, MAX_SCANS, MAX_WEBP_PIXELS

Reduction = Literal[1, 2, 4, 8]

# What Pillow opens: formats that photographs come in, none whose reader starts other programs.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_STRIP = 1 << 20  # pixels
_PNG = b"\x89PNG\r\n\x1a\n"
_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # tags of a TIFF, and a value of the second


class BadSample(Exception):
    """Unusable sample; the message is the cause, without place or key."""

    by_choice = False


class SkippedByRecipe(BadSample):
    """Sample outside the recipe's image sizes: nothing is wrong with it."""

    by_choice = True


class EncodedImage:
    """Encoded image of known size; size and pixels have the Exif orientation applied.

    `kind` is the format of its bytes, regardless of the file name; `transparent` images are
    composed on white.
    """

    def __init__(
        self,
        height: int,
        width: int,
        orientation: int,
        decode: Callable[[Reduction], np.ndarray],
        *,
        kind: str = "JPEG",
        transparent: bool = False,
    ) -> None:
        self.height, self.width = (width, height) if orientation >= 5 else (height, width)
        self.kind, self.transparent = kind, transparent
        self._orientation = orientation
        self._decode = decode
        self._pixels: dict[int, np.ndarray] = {}

    def pixels(self, reduce: Reduction = 1) -> np.ndarray:
        """Return (height, width, 3) uint8 RGB, both sides divided by `reduce`, rounded up.

        Decodes once: further calls, as for another view, return the same array. Raises `BadSample`
        if the data are broken or truncated.
        """
        if reduce not in self._pixels:
            self._pixels[reduce] = _upright(self._decode(reduce), self._orientation)
        return self._pixels[reduce]


def open_image(data: bytes, *, max_pixels: int = MAX_PIXELS, min_side: int = 1) -> EncodedImage:
    """Read an image's header; JPEG by simplejpeg, all other formats and its failures by Pillow.

    Raises `BadSample` for anything but an image and, before decoding, for an image that would take
    too much memory or time. Raises `SkippedByRecipe` if it has more than `max_pixels` or a side
    shorter than `min_side`.
    """
    if not data.startswith(b"\xff\xd8\xff"):
        return _open_with_pillow(data, max_pixels, min_side, None)
    header = read_jpeg_header(data)
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return _open_with_pillow(data, max_pixels, min_side, header)
    _check_size(height, width, "JPEG", max_pixels, min_side)
    _check_scans(data, header, height * width)
    decode = partial(_decode_jpeg, data, header, height, width)
    return EncodedImage(height, width, header.orientation, decode)


def decode_image(data: bytes) -> np.ndarray:
    """Return all pixels of an encoded image, (height, width, 3) uint8 RGB; raises `BadSample`."""
    return open_image(data).pixels()


def _check_size(height: int, width: int, kind: str, max_pixels: int, min_side: int) -> None:
    if height * width > max_pixels:
        # Above the limit that no recipe has set it is a bomb, below it somebody's choice.
        error = SkippedByRecipe if max_pixels < MAX_PIXELS else BadSample
        raise error(f"image is too large (over {max_pixels:,} pixels)")
    if kind == "WEBP" and height * width > MAX_WEBP_PIXELS:
        raise BadSample(f"image is too large (over {MAX_WEBP_PIXELS:,} pixels, as WebP)")
    if min(height, width) < min_side:
        raise SkippedByRecipe(f"image is too small (a side under {min_side} pixels)")


def _check_scans(data: bytes, header: JpegHeader, pixels: int) -> None:
    # In what is coded, 0xFF never stands before 0xDA: other segments can only add to the count.
    scans = data.count(b"\xff\xda", header.scan) if header.several_scans else 1
    if scans > MAX_SCANS or (scans > 1 and scans * pixels > MAX_SCANNED_PIXELS):
        raise BadSample("image has too many scans") from ValueError(f"{scans:,} scans")


def _decode_jpeg(
    data: bytes, header: JpegHeader, height: int, width: int, reduce: Reduction
) -> np.ndarray:
    # The smallest scale of libjpeg's that is no smaller than this is 1 / reduce.
    smallest = {"min_height": -(-height // reduce), "min_width": -(-width // reduce)}
    try:
        return simplejpeg.decode_jpeg(data, "RGB", **smallest)
    except ValueError as error:
        harmless = _without_harmless_faults(data, header, str(error))
    try:
        return simplejpeg.decode_jpeg(harmless, "RGB", **smallest)
    except ValueError as error:
        # Other readers only warn of these, and fill up what is missing with grey.
        if "Premature end" in str(error):
            raise BadSample("image does not decode (truncated)") from error
        if "Corrupt JPEG data" in str(error) or "progression" in str(error):
            raise BadSample("image does not decode (broken data)") from error
    return _decode_with_pillow(data, reduce)


def _without_harmless_faults(data: bytes, header: JpegHeader, fault: str) -> bytes:
    """Return a JPEG without the faults that are common and cost no pixel."""
    if "SOS parameters" in fault and not header.progressive:  # some cameras': they mean nothing
        size = int.from_bytes(data[header.scan + 2 : header.scan + 4], "big")
        end = header.scan + 2 + size
        return data[: end - 3] + b"\0\x3f\0" + data[end:]
    if "extraneous bytes before marker 0xd9" in fault:  # zeros, to fill up a block
        end = data.rfind(b"\xff\xd9")
        return data[:end].rstrip(b"\0") + data[end:]
    return data


def _open_with_pillow(
    data: bytes, max_pixels: int, min_side: int, jpeg: JpegHeader | None
) -> EncodedImage:
    if sum(tag.size for tag in tiff_tags(data)) > 2 * len(data) + 4096:
        raise BadSample("image does not decode (tags that overlap)")  # Pillow would copy each
    with _pillow():
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    # A TIFF has been turned by Pillow, and its size with it.
    height, width = image.height, image.width
    kind = "JPEG" if jpeg else image.format or ""
    _check_size(height, width, kind, max_pixels, min_side)
    if jpeg:
        _check_scans(data, jpeg, height * width)
    return EncodedImage(
        height,
        width,
        jpeg.orientation if jpeg else _orientation(data, image),
        partial(_decode_with_pillow, data),
        kind=kind,
        transparent=image.has_transparency_data,
    )


def _orientation(data: bytes, image: Image.Image) -> int:
    """Return the orientation that is said beside the pixels, without decoding them."""
    if image.format == "TIFF":
        return 1
    exif: Any = image.info.get("exif")
    if data.startswith(_PNG):  # it may stand behind the pixels
        chunks = png_chunks(data)
        exif = next((data[start:end] for name, start, end in chunks if name == b"eXIf"), exif)
    if exif is None and "Raw profile type exif" in image.info:  # ImageMagick's, in hexadecimals
        with _pillow():
            exif = bytes.fromhex("".join(image.info["Raw profile type exif"].split("\n")[3:]))
    if exif:
        return exif_orientation(exif)
    xmp = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    return xmp_orientation(xmp.encode() if isinstance(xmp, str) else xmp)


def _decode_with_pillow(data: bytes, reduce: Reduction) -> np.ndarray:
    """Decode from the bytes: an image that failed to load once would give what it had loaded."""
    if data.startswith(_PNG):
        _check_png(data)
    with _pillow():
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        image.load()
        return _rgb(image, reduce)


def _check_png(data: bytes) -> None:
    """Raise `BadSample` unless every chunk is as its checksum says: Pillow skips that of pixels."""
    view = memoryview(data)
    for name, start, end in png_chunks(data):
        if zlib.crc32(view[start - 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise BadSample("image does not decode (broken data)")
        if name == b"IEND":
            return
    raise BadSample("image does not decode (truncated)")


def _rgb(image: Image.Image, reduce: Reduction) -> np.ndarray:
    """Return the pixels of an image's first frame, (height, width, 3) uint8."""
    if image.mode in ("I", "F"):
        raise BadSample("image does not decode (32-bit values, of no known range)")
    tags = getattr(image, "tag_v2", {})
    # A strip at a time, lest a large image be in memory three times; their edges are those of boxes
    # that become one pixel.
    rows = max(8, _STRIP // image.width // 8 * 8)
    pixels = np.empty((-(-image.height // reduce), -(-image.width // reduce), 3), np.uint8)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        strip = _eight_bits(strip, tags) if strip.mode.startswith("I;16") else strip
        strip = _on_white(strip) if strip.has_transparency_data else strip.convert("RGB")
        strip = strip if reduce == 1 else strip.reduce(reduce)
        pixels[top // reduce : top // reduce + strip.height] = np.asarray(strip)
    return pixels


def _on_white(image: Image.Image) -> Image.Image:
    white, image = Image.new("RGB", image.size, "white"), image.convert("RGBA")
    white.paste(image, mask=image)
    return white


def _eight_bits(image: Image.Image, tags: Mapping[int, Any]) -> Image.Image:
    """Return a grey image of 16 bits in 8: Pillow would clip them, which leaves a white image."""
    values = np.asarray(image)
    grey = (values >> (4 if tags.get(_BITS) == (12,) else 8)).astype(np.uint8)
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = 255 - grey
    if isinstance(transparent := image.info.get("transparency"), int):
        grey[values == transparent] = 255
    return Image.fromarray(grey)


@contextmanager
def _pillow() -> Iterator[None]:
    """Keep Pillow's warnings from the terminal; raise `BadSample` for its errors, with few causes.

    What is particular to a file stays in the exception's cause.
    """
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # another library may have set it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except BadSample:
            raise
        except UnidentifiedImageError as error:
            raise BadSample("image does not decode (not an image)") from error
        except Image.DecompressionBombError as error:
            raise BadSample(f"image is too large (over {MAX_PIXELS:,} pixels)") from error
        except Exception as error:  # Pillow's readers raise whatever the bytes lead them to.
            cut = "truncated" in str(error).lower()
            cause = "truncated" if cut else "broken data"
            raise BadSample(f"image does not decode ({cause})") from error


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    if orientation == 1:
        return pixels
    turned = pixels.swapaxes(0, 1) if orientation >= 5 else pixels
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(turned[::rows, ::columns])
