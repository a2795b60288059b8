"""Images as Python objects, read by the decoder of training."""

import io
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from xmodal.data.decode import BadSample, EncodedImage, open_image
from xmodal.errors import UserError

Picture = str | Path | bytes | Image.Image | np.ndarray | Tensor
# Modes of Pillow that a PNG holds as they are; others become RGB first, 32-bit ones excepted.
_PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}


def read_pictures(pictures: Picture | Iterable[Picture]) -> Iterator[EncodedImage]:
    """Yield each of some pictures, or one, ready to be decoded.

    A tensor (n, 3, height, width) and an array (n, height, width, 3) are n of them. Raises
    `UserError` for what cannot be read, with its path or its position, from 0.
    """
    for number, picture in enumerate(_each(pictures)):
        name = picture if isinstance(picture, str | Path) else f"image {number}"
        try:
            yield _open(picture)
        except BadSample as cause:
            raise UserError(f"{name}: {cause}") from None
        except OSError as error:
            raise UserError(f"{name} cannot be read: {error.strerror or error}") from None


def _each(pictures: Picture | Iterable[Picture]) -> Iterable[Picture]:
    if isinstance(pictures, np.ndarray | Tensor):
        return pictures if pictures.ndim == 4 else [pictures]
    one = isinstance(pictures, str | Path | bytes | Image.Image)
    return [pictures] if one else pictures  # type: ignore[list-item, return-value]


def _open(picture: Picture) -> EncodedImage:
    match picture:
        case str() | Path():
            return open_image(Path(picture).read_bytes())
        case bytes():
            return open_image(picture)
        case Image.Image():
            return open_image(_as_png(picture))
        case Tensor():
            return _of_pixels(picture.cpu().movedim(0, -1).numpy() if picture.ndim == 3 else None)
        case np.ndarray():
            return _of_pixels(picture)
    raise BadSample(
        f"a {type(picture).__name__} is not an image; give a path, bytes, a PIL image, or pixels"
    )


def _as_png(image: Image.Image) -> bytes:
    """Return a PIL image as a file, so that its mode and its EXIF are treated as a file's are."""
    if image.mode in ("F", "I"):
        raise BadSample("image does not decode (32-bit values, of no known range)")
    buffer = io.BytesIO()
    exif = image.getexif()
    picture = image if image.mode in _PNG_MODES else image.convert("RGB")
    picture.save(buffer, "PNG", exif=exif, compress_level=1)
    return buffer.getvalue()


def _of_pixels(pixels: np.ndarray | None) -> EncodedImage:
    if pixels is None or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise BadSample(
            "pixels must be uint8: an array (height, width, 3) or a tensor (3, height, width)"
        )
    if 0 in pixels.shape:
        raise BadSample("image has no pixels")
    height, width, _ = pixels.shape
    return EncodedImage(height, width, 1, lambda _: np.require(pixels, requirements=["C", "W"]))
