"""Images as stored: the bytes as found, or a faithful smaller or whiter one."""

import contextlib
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shards.picture import PictureError, decode, file_on_white, stored

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
    small = decode(kept)
    assert extension == "jpg"
    assert min(small.size) == limit
    scale = limit / min(width, height)
    assert abs(max(small.size) - max(width, height) * scale) <= 0.5


def test_a_smaller_image_shows_the_same(encode: Callable[..., bytes]) -> None:
    data = encode("PNG", size=(400, 300))
    _, kept = stored(data, 100)
    wanted = np.asarray(decode(data).reduce(3), float)
    difference = np.abs(np.asarray(decode(kept).resize((134, 100)), float) - wanted)
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
    assert np.array_equal(decode(kept), decode(data).convert("RGB"))


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
        pixels = np.asarray(decode(kept).convert("L"))
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
        assert decode(stored(buffer.getvalue(), 20)[1]).size == (20, 20)


def causes_of(data: bytes) -> str:
    with pytest.raises(PictureError) as caught:
        decode(data)
    return caught.value.cause


def test_what_is_wrong_with_an_image_has_a_cause(
    encode: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert causes_of(b"") == "zero bytes"
    assert causes_of(b"<html>404</html>") == "not an image"
    assert causes_of(encode(size=(200, 200))[:-200]) == "does not decode"
    damaged = bytearray(encode("PNG"))
    damaged[60:90] = b"#" * 30
    assert causes_of(bytes(damaged)) == "does not decode"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert causes_of(encode()) == "over 1,000 pixels"
    assert causes_of(encode(size=(100, 100))) == "over 1,000 pixels"


@settings(max_examples=200, deadline=None)
@given(place=st.integers(0, 10_000), noise=st.binary(min_size=1, max_size=20))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF"])
def test_damage_is_met_with_a_picture_or_a_cause(kind: str, place: int, noise: bytes) -> None:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((32, 32)).save(buffer, kind)
    data = bytearray(buffer.getvalue())
    place %= len(data)
    data[place : place + len(noise)] = noise
    with contextlib.suppress(PictureError):
        assert min(decode(bytes(data)).size) > 0
