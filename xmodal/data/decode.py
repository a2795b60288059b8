"""From an image's bytes to pixels."""

import io
import math
import warnings

import numpy as np
import simplejpeg
from PIL import Image

MAX_PIXELS = Image.MAX_IMAGE_PIXELS or math.inf  # above which an image is a decompression bomb


class BadSample(Exception):
    """A sample that cannot be used; the message is the cause, without place or key."""


def decode_image(data: bytes) -> np.ndarray:
    """Return the pixels of an encoded image, (height, width, 3) uint8 RGB.

    JPEG goes through simplejpeg; everything else, and the JPEG it refuses (CMYK), through Pillow,
    transparency on white. Raises `BadSample` for what is no image, is cut, or is too large.
    """
    if simplejpeg.is_jpeg(data):
        try:
            height, width, *_ = simplejpeg.decode_jpeg_header(data)
            if height * width <= MAX_PIXELS:
                return simplejpeg.decode_jpeg(data, colorspace="RGB")
        except ValueError:
            pass
    return _decode_with_pillow(data)


def _decode_with_pillow(data: bytes) -> np.ndarray:
    with warnings.catch_warnings():
        # A decompression bomb is an error of the data, not a line on the terminal.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(io.BytesIO(data)) as file:
                if file.mode.startswith("I;16"):
                    # Pillow would clip 16 bits to 8, which leaves a white image.
                    return np.repeat((np.asarray(file) >> 8).astype(np.uint8)[..., None], 3, 2)
                if not file.has_transparency_data:
                    return np.array(file.convert("RGB"))
                white = Image.new("RGBA", file.size, "white")
                return np.array(Image.alpha_composite(white, file.convert("RGBA")).convert("RGB"))
        except (Image.DecompressionBombWarning, Image.DecompressionBombError):
            raise BadSample("image is a decompression bomb") from None
        except Exception as error:
            # Pillow's plug-ins raise what they like on broken files.
            raise BadSample(f"image does not decode ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    text = str(error).split("\n")[0] or type(error).__name__
    return "not an image" if "cannot identify" in text else text
