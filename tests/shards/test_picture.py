"""Images as stored: the bytes as found, or a faithful smaller or whiter one."""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from shards.picture import file_on_white, stored
from xmodal.data.decode import BadSample, decode_image

SIDES = st.integers(1, 300)


def png(image: Image.Image, **parameters: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", **parameters)
    return buffer.getvalue()


@settings(max_examples=50, deadline=None)
@given(width=SIDES, height=SIDES, limit=st.integers(1, 200))
def test_the_shorter_side_shrinks_to_the_limit_and_never_grows(
    width: int, height: int, limit: int
) -> None:
    data = png(Image.new("RGB", (width, height), "navy"))
    extension, kept = stored(data, limit)
    if min(width, height) <= limit:
        assert (extension, kept) == ("png", data)
        return
    small = decode_image(kept).shape[:2]
    assert extension == "jpg"
    assert min(small) == limit
    scale = limit / min(width, height)
    assert abs(max(small) - max(width, height) * scale) <= 0.5


def test_a_smaller_image_shows_the_same(encode: Callable[..., bytes]) -> None:
    data = encode("PNG", size=(400, 300))
    _, kept = stored(data, 100)
    wanted = np.asarray(Image.fromarray(decode_image(data)).reduce(3), float)
    small = Image.fromarray(decode_image(kept)).resize((134, 100))
    difference = np.abs(np.asarray(small, float) - wanted)
    assert difference.mean() < 3


@pytest.mark.parametrize(
    ("kind", "extension"), [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("MPO", "jpg")]
)
def test_formats_of_shards_keep_their_bytes(
    kind: str, extension: str, encode: Callable[..., bytes]
) -> None:
    data = encode(kind)
    assert stored(data, None) == (extension, data)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF"])
def test_other_formats_become_png_without_loss(kind: str, encode: Callable[..., bytes]) -> None:
    data = encode(kind)
    extension, kept = stored(data, None)
    assert extension == "png"
    assert np.array_equal(decode_image(kept), decode_image(data))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_becomes_white_when_encoded_again(mode: str, tmp_path: Path) -> None:
    image = Image.new("RGBA", (60, 60), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (30, 0, 60, 60))
    parameters = {"transparency": 0} if mode == "P" else {}
    paletted = Image.new("P", (60, 60), 0)
    paletted.putpalette([200, 0, 0, 0, 0, 0])
    paletted.paste(1, (30, 0, 60, 60))
    data = png(paletted if mode == "P" else image.convert(mode), **parameters)
    (tmp_path / "a.png").write_bytes(data)
    for kept in (stored(data, 30)[1], file_on_white(tmp_path / "a.png")):
        pixels = decode_image(kept)[..., 0]
        assert pixels[:, 2].min() > 250
        assert pixels[:, -3].max() < 5
    assert stored(data, 60) == ("png", data)


def test_a_file_without_transparency_is_left_as_it_is(
    tmp_path: Path, encode: Callable[..., bytes]
) -> None:
    (tmp_path / "a.png").write_bytes(encode("PNG"))
    assert file_on_white(tmp_path / "a.png") == encode("PNG")


def test_grey_and_cmyk_images_shrink_too() -> None:
    for mode in ("L", "1", "CMYK", "I;16"):
        buffer = io.BytesIO()
        Image.new(mode, (50, 50)).save(buffer, "TIFF")
        assert decode_image(stored(buffer.getvalue(), 20)[1]).shape == (20, 20, 3)


def oriented(kind: str, orientation: int) -> bytes:
    """An image of 60 × 40 pixels as a person sees it, of which the top left quarter is red."""
    image = Image.new("RGB", (60, 40), "navy")
    image.paste("red", (0, 0, 30, 20))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    turned = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # what undoes each orientation
    if orientation > 1:
        image = image.transpose(Image.Transpose(turned[orientation]))
    buffer = io.BytesIO()
    image.save(buffer, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_before_they_shrink(kind: str, orientation: int) -> None:
    data = oriented(kind, orientation)
    for limit in (20, None):
        pixels = decode_image(stored(data, limit)[1])
        assert pixels.shape == ((20, 30, 3) if limit else (40, 60, 3))
        corners = pixels[[2, 2, -3, -3], [2, -3, 2, -3]].astype(int)
        assert [red > blue for red, _, blue in corners] == [True, False, False, False]


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("limit", [None, 64])
def test_sixteen_bits_are_stored_as_they_are_read(kind: str, limit: int | None) -> None:
    ramp = np.tile(np.linspace(0, 65535, 128).astype(np.uint16), (128, 1))
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, kind)
    pixels = decode_image(stored(buffer.getvalue(), limit)[1])
    assert abs(pixels.mean() - 127.5) < 1
    assert pixels[:, 0].max() < 8
    assert pixels[:, -1].min() > 247


def test_values_of_no_known_range_are_not_stored() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.ones((4, 4), np.float32)).save(buffer, "TIFF")
    assert cause_of(buffer.getvalue()).endswith("(32-bit values, of no known range)")


def cause_of(data: bytes) -> str:
    with pytest.raises(BadSample) as caught:
        stored(data, None)
    return str(caught.value)


def test_what_is_wrong_with_an_image_has_a_cause(encode: Callable[..., bytes]) -> None:
    assert cause_of(b"") == "image is empty"
    assert cause_of(b"<html>404</html>") == "image does not decode (not an image)"
    assert cause_of(encode(size=(200, 200))[:-200]) == "image does not decode (truncated)"
    damaged = bytearray(encode("PNG"))
    damaged[60:90] = b"#" * 30
    assert cause_of(bytes(damaged)) == "image does not decode (broken data)"


@settings(max_examples=200, deadline=None)
@given(place=st.integers(0, 10_000), noise=st.binary(min_size=1, max_size=20))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
def test_what_is_stored_can_be_read_whatever_the_damage(
    kind: str, place: int, noise: bytes
) -> None:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((32, 32)).save(buffer, kind)
    data = bytearray(buffer.getvalue())
    place %= len(data)
    data[place : place + len(noise)] = noise
    with contextlib.suppress(BadSample):
        assert decode_image(stored(bytes(data), None)[1]).size > 0
