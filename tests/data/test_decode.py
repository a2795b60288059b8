"""Images of every kind become RGB pixels; what is no image says why."""

import io
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.shard_sets import encode
from xmodal.data.decode import BadSample, decode_image

GRADIENT = np.stack(
    [
        np.tile(np.linspace(0, 255, 64), (48, 1)),
        np.tile(np.linspace(255, 0, 48)[:, None], (1, 64)),
        np.full((48, 64), 90.0),
    ],
    2,
).astype(np.uint8)


def saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def assert_near(found: np.ndarray, wanted: np.ndarray, mean: float) -> None:
    assert found.dtype == np.uint8
    assert found.shape == wanted.shape
    assert np.abs(found.astype(int) - wanted.astype(int)).mean() <= mean


@pytest.mark.parametrize(
    ("kind", "mode", "mean"),
    [
        ("PNG", "RGB", 0),
        ("PNG", "RGBA", 0),
        ("JPEG", "RGB", 3),
        ("JPEG", "CMYK", 4),
        ("WEBP", "RGB", 6),
    ],
)
def test_every_kind_of_image_becomes_rgb(kind: str, mode: str, mean: float) -> None:
    pixels = decode_image(encode(GRADIENT, kind, mode))
    assert_near(pixels, GRADIENT, mean)
    # Torch warns of an array that it must not write to.
    assert pixels.flags.writeable


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_grey_images_become_rgb(kind: str) -> None:
    grey = np.repeat(GRADIENT[..., :1], 3, 2)
    assert_near(decode_image(encode(grey, kind, "L")), grey, 2)


def test_jpeg_equals_pillows_to_rounding() -> None:
    data = encode(GRADIENT, "JPEG")
    theirs = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert_near(decode_image(data), theirs, 0.1)


def test_sixteen_bits_become_eight() -> None:
    grey = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    wanted = np.repeat((grey // 256).astype(np.uint8)[..., None], 3, 2)
    np.testing.assert_array_equal(decode_image(saved(Image.fromarray(grey))), wanted)


def test_transparency_lies_on_white() -> None:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (10, 20, 30, 0))
    assert decode_image(saved(image)).tolist() == [[[255, 0, 0], [255, 255, 255]]]
    half = Image.new("RGBA", (1, 1), (0, 0, 0, 128))
    assert decode_image(saved(half)).tolist() == [[[127, 127, 127]]]


def test_a_palette_can_have_a_transparent_colour() -> None:
    image = Image.new("P", (2, 1), 0)
    image.putpalette([0, 0, 255, 0, 255, 0])
    image.putpixel((1, 0), 1)
    assert decode_image(saved(image)).tolist() == [[[0, 0, 255], [0, 255, 0]]]
    assert decode_image(saved(image, transparency=1)).tolist() == [[[0, 0, 255], [255, 255, 255]]]


def giant(kind: str) -> bytes:
    """A small file whose header says 60,000 pixels a side."""
    data = bytearray(encode(GRADIENT, kind))
    side = (60_000).to_bytes(2, "big")
    if kind == "JPEG":
        frame = data.index(b"\xff\xc0")
        data[frame + 5 : frame + 9] = side * 2
        return bytes(data)
    header = data.index(b"IHDR")
    data[header + 4 : header + 12] = (b"\0\0" + side) * 2
    checksum = zlib.crc32(data[header : header + 17])
    data[header + 17 : header + 21] = checksum.to_bytes(4, "big")
    return bytes(data)


JPEG, PNG = encode(GRADIENT, "JPEG"), encode(GRADIENT, "PNG")


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"<html>404</html>", "image does not decode (not an image)"),
        (b"\xff\xd8\xff and then text", "image does not decode"),
        (b"", "image does not decode"),
        (JPEG[:-40], "image does not decode (cut short)"),
        (PNG[: len(PNG) // 2], "image does not decode (cut short)"),
        (giant("JPEG"), "image is too large"),
        (giant("PNG"), "image is too large"),
    ],
    ids=["text", "jpeg mark", "empty", "cut jpeg", "cut png", "giant jpeg", "giant png"],
)
def test_what_is_no_image_says_why_without_a_warning(data: bytes, cause: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BadSample) as caught:
            decode_image(data)
    assert str(caught.value).startswith(cause)
    assert "\n" not in str(caught.value)


def test_a_jpeg_that_is_whole_and_too_large_is_not_decoded() -> None:
    data = saved(Image.new("L", (9500, 9500)), "JPEG", quality=1)
    with pytest.raises(BadSample, match="image is too large"):
        decode_image(data)
