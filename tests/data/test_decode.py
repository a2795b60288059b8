"""Images of every kind become RGB pixels; what is no image says why."""

import io
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageFile, ImageOps

from tests.shard_sets import encode
from xmodal.data import decode
from xmodal.data.decode import BadSample, SkippedByRecipe, decode_image, open_image

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
        ("GIF", "RGB", 6),
        ("BMP", "RGB", 0),
        ("TIFF", "RGB", 0),
        ("TIFF", "CMYK", 0),
        ("TIFF", "YCbCr", 2),
        ("TIFF", "RGBA", 0),
        ("WEBP", "RGBA", 6),
        ("PNG", "P", 20),
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
    of_one = [[[0, 0, 255], [255, 255, 255]]]
    assert decode_image(saved(image, transparency=1)).tolist() == of_one
    assert decode_image(saved(image, "GIF", transparency=1)).tolist() == of_one
    of_each = decode_image(saved(image, transparency=bytes([255, 128])))
    assert of_each.tolist() == [[[0, 0, 255], [127, 255, 127]]]


def test_grey_with_transparency_lies_on_white() -> None:
    image = Image.new("LA", (2, 1), (40, 255))
    image.putpixel((1, 0), (0, 0))
    assert decode_image(saved(image)).tolist() == [[[40] * 3, [255] * 3]]
    plain = Image.new("L", (2, 1), 40)
    plain.putpixel((1, 0), 7)
    assert decode_image(saved(plain, transparency=7)).tolist() == [[[40] * 3, [255] * 3]]


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF"])
def test_one_bit_is_black_or_white(kind: str) -> None:
    image = Image.new("1", (2, 1), 0)
    image.putpixel((1, 0), 1)
    assert decode_image(saved(image, kind)).tolist() == [[[0] * 3, [255] * 3]]


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_sixteen_bit_tiff_becomes_eight(dtype: str) -> None:
    grey = np.linspace(0, 65535, 256).reshape(16, 16).astype(dtype)
    wanted = np.repeat((grey // 256).astype(np.uint8)[..., None], 3, 2)
    np.testing.assert_array_equal(decode_image(saved(Image.fromarray(grey), "TIFF")), wanted)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_values_of_no_known_range_are_refused(dtype: type) -> None:
    data = saved(Image.fromarray(np.ones((4, 4), dtype)), "TIFF")
    with pytest.raises(BadSample, match="32-bit values"):
        decode_image(data)


@pytest.mark.parametrize("transform", [0, 2], ids=["CMYK", "YCCK"])
def test_inks_in_a_jpeg_are_inverted_as_adobe_writes_them(transform: int) -> None:
    data = bytearray(encode(GRADIENT, "JPEG", "CMYK"))
    mark = data.index(b"Adobe")
    if transform:
        # The same numbers, said to be luminance and chrominance of the inks.
        ycc = np.asarray(Image.fromarray(255 - GRADIENT).convert("YCbCr"))
        inks = np.concatenate([255 - ycc, np.zeros_like(ycc[..., :1])], 2)
        data = bytearray(saved(Image.fromarray(inks, "CMYK"), "JPEG", quality=95))
        mark = data.index(b"Adobe")
    data[mark + 11] = transform
    pixels = decode_image(bytes(data))
    assert_near(pixels, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), 1.5)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_what_moves_the_first_frame_is_taken(kind: str) -> None:
    frames = [Image.new("RGB", (9, 7), colour) for colour in ("red", "lime", "blue")]
    lossless = {"lossless": True} if kind == "WEBP" else {}
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **lossless)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    np.testing.assert_array_equal(decode_image(data), np.asarray(frames[0]))


def with_orientation(kind: str, orientation: object, **options: object) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "a camera"
    exif[ExifTags.Base.Orientation] = orientation
    lossless = {"lossless": True} if kind == "WEBP" else {}
    return saved(Image.fromarray(GRADIENT), kind, exif=exif, **lossless, **options)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_stand_as_their_camera_was_held(kind: str, orientation: int) -> None:
    data = with_orientation(kind, orientation)
    theirs = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    image = open_image(data)
    assert (image.height, image.width) == theirs.shape[:2]
    assert image.height == (48 if orientation < 5 else 64)
    assert_near(image.pixels(), theirs, 0.1)
    reduced = image.pixels(2)
    assert_near(reduced, box_average(theirs, 2), 2)


def test_broken_or_strange_exif_does_not_turn_an_image() -> None:
    for orientation in (0, 9, 65535):
        assert open_image(with_orientation("JPEG", orientation)).height == 48
    data = with_orientation("JPEG", 6)
    assert open_image(data).height == 64
    start = data.index(b"Exif\0\0")
    for broken in (b"Exif\0\0nonsense", b"Exif\0\0II*\0\xff\xff\xff\xff"):
        image = open_image(data[:start] + broken + data[start + len(broken) :])
        assert image.height == 48
        assert image.pixels().shape == (48, 64, 3)


def test_exif_is_found_after_other_segments_and_not_in_them() -> None:
    data = with_orientation("JPEG", 6)
    start, size = data.index(b"Exif\0\0") - 4, data[data.index(b"Exif\0\0") - 1]
    exif = data[start : start + 2 + size]
    bare = data[:start] + data[start + 2 + size :]
    comment = b"\xff\xfe" + (2 + len(exif)).to_bytes(2, "big") + exif
    assert open_image(bare).height == 48
    assert open_image(bare[:2] + comment + bare[2:]).height == 48
    assert open_image(bare[:2] + comment + exif + bare[2:]).height == 64


def box_average(pixels: np.ndarray, reduce: int) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).reduce(reduce))


@pytest.mark.parametrize("reduce", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(("height", "width"), [(240, 320), (241, 323), (239, 317), (5, 3), (1, 1)])
def test_reduced_pixels_are_averages(kind: str, height: int, width: int, reduce: int) -> None:
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 250 / width, y * 250 / height, 90 + 0 * x], 2).astype(np.uint8)
    image = open_image(encode(pixels, kind))
    found, wanted = image.pixels(reduce), box_average(image.pixels(), reduce)
    assert found.shape == (-(-height // reduce), -(-width // reduce), 3)
    if min(height, width) > 8:  # a JPEG's blocks reach over the edges of what is smaller
        assert_near(found, wanted, 1)


def test_pixels_are_decoded_once() -> None:
    image = open_image(JPEG)
    assert image.pixels() is image.pixels()
    assert image.pixels(2) is image.pixels(2)


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


WEBP, TIFF = encode(GRADIENT, "WEBP"), encode(GRADIENT, "TIFF")


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"<html>404</html>", "image does not decode (not an image)"),
        (b"\xff\xd8\xff and then text", "image does not decode (not an image)"),
        (b"", "image does not decode (not an image)"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "image does not decode (not an"),
        (JPEG[:-40], "image does not decode (truncated)"),
        (PNG[: len(PNG) // 2], "image does not decode (truncated)"),
        (TIFF[: len(TIFF) // 2], "image does not decode ("),
        (WEBP[: len(WEBP) // 2], "image does not decode ("),
        (giant("JPEG"), "image is too large (over 89,478,485 pixels)"),
        (giant("PNG"), "image is too large (over 89,478,485 pixels)"),
    ],
)
def test_what_is_no_image_says_why_without_a_warning(data: bytes, cause: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(BadSample) as caught:
            decode_image(data)
    assert str(caught.value).startswith(cause)


CAUSES = {
    "image does not decode (not an image)",
    "image does not decode (truncated)",
    "image does not decode (broken data)",
    "image does not decode (32-bit values, of no known range)",
    "image does not decode (tags that overlap)",
    "image has too many scans",
    "image is too large (over 89,478,485 pixels)",
    "image is too large (over 100,000 pixels)",
    "image is too small (a side under 4 pixels)",
}


@given(
    st.sampled_from([JPEG, PNG, WEBP, TIFF, encode(GRADIENT, "GIF"), encode(GRADIENT, "BMP")]),
    st.floats(0, 1),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
)
def test_whatever_is_wrong_the_causes_are_few(
    data: bytes, kept: float, changes: list[tuple[float, int]]
) -> None:
    changed = bytearray(data[: round(kept * len(data))] or b"?")
    for place, value in changes:
        changed[int(place * len(changed))] = value
    assert outcome(bytes(changed)) in {"decoded", *CAUSES}


def outcome(data: bytes) -> str:
    try:
        image = open_image(data, max_pixels=100_000, min_side=4)
        assert image.pixels().shape == (image.height, image.width, 3)
    except BadSample as cause:
        return str(cause)
    return "decoded"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_limits_of_size_are_the_callers(kind: str) -> None:
    data = encode(GRADIENT, kind)
    assert open_image(data, max_pixels=48 * 64, min_side=48).pixels().shape == (48, 64, 3)
    with pytest.raises(SkippedByRecipe, match=r"image is too large \(over 3,071 pixels\)"):
        open_image(data, max_pixels=48 * 64 - 1)
    with pytest.raises(SkippedByRecipe, match=r"image is too small \(a side under 49 pixels\)"):
        open_image(data, min_side=49)


def test_what_no_recipe_has_limited_is_a_bomb_and_not_left_out() -> None:
    with pytest.raises(BadSample, match="image is too large") as caught:
        open_image(giant("JPEG"))
    assert not caught.value.by_choice


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_what_is_too_large_is_refused_before_it_takes_memory(kind: str) -> None:
    # Not getrusage's peak: a process takes over that of the one that started it.
    script = """
import re, sys
from pathlib import Path
from xmodal.data.decode import BadSample, decode_image, open_image

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

data = sys.stdin.buffer.read()
decode_image(SMALL)
before = peak()
try:
    open_image(data, max_pixels=10_000_000).pixels()
except BadSample as cause:
    print(cause, peak() - before)
""".replace("SMALL", repr(encode(GRADIENT, kind)))
    data = saved(Image.new("L", (9000, 9000)), kind, **({"quality": 1} if kind != "PNG" else {}))
    done = subprocess.run(
        [sys.executable, "-c", script], input=data, capture_output=True, check=True
    )
    cause, grown = done.stdout.decode().rsplit(" ", 1)
    assert cause == "image is too large (over 10,000,000 pixels)"
    assert int(grown) < 4096  # KiB; the pixels would be 79 MiB at the least


# What is wrong among the pixels, and what would cost too much.


def damaged_scan(data: bytes) -> bytes:
    changed = bytearray(data)
    changed[len(data) // 2 : len(data) // 2 + 4] = b"\xde\xad\xbe\xef"
    return bytes(changed)


NOISE = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"mode": "CMYK"}, {"mode": "L"}])
def test_garbage_in_the_scan_of_a_jpeg_is_no_image(options: dict) -> None:
    image = Image.fromarray(NOISE).convert(options.pop("mode", "RGB"))
    data = saved(image, "JPEG", quality=95, **options)
    assert decode_image(data).shape == (60, 80, 3)
    assert outcome(damaged_scan(data)) == "image does not decode (broken data)"
    assert outcome(data[:-200] + b"\xff\xd9") == "image does not decode (broken data)"
    assert outcome(data[:-2]) == "image does not decode (truncated)"


def test_faults_of_a_jpeg_that_cost_no_pixel_are_borne() -> None:
    data = saved(Image.fromarray(NOISE), "JPEG", quality=95)
    padded = data[:-2] + bytes(9) + data[-2:]
    scan = data.index(b"\xff\xda")
    cameras = bytearray(data)
    cameras[scan + 2 + data[scan + 3] - 2] = 0  # the end of the spectrum
    for harmless in (padded, bytes(cameras), data + b"trailing"):
        np.testing.assert_array_equal(decode_image(harmless), decode_image(data))
    assert outcome(damaged_scan(bytes(cameras))) == "image does not decode (broken data)"


@pytest.mark.parametrize("place", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("times", [1, 2])
def test_a_wrong_byte_of_a_png_is_no_image_at_any_try(place: float, times: int) -> None:
    data = bytearray(saved(Image.fromarray(NOISE)))
    start = data.index(b"IDAT") + 4
    data[start + int(place * (len(data) - 16 - start))] ^= 1
    image = open_image(bytes(data))
    for reduce in (1, 2)[:times]:
        with pytest.raises(BadSample, match="broken data"):
            image.pixels(reduce)


def test_a_png_without_its_end_is_cut() -> None:
    assert outcome(PNG[:-12]) == "image does not decode (truncated)"


def test_half_an_image_is_none_whatever_others_have_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for data in (PNG, JPEG, TIFF, encode(GRADIENT, "GIF")):
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        assert outcome(data[: len(data) * 2 // 3]).startswith("image does not decode")


def test_the_orientation_of_a_png_may_stand_behind_its_pixels() -> None:
    data = with_orientation("PNG", 6)
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    late = data[:start] + data[end:-12] + data[start:end] + data[-12:]
    assert open_image(late).height == 64
    np.testing.assert_array_equal(decode_image(late), decode_image(data))


@pytest.mark.parametrize("white_is_zero", [False, True])
def test_white_may_be_zero_in_a_tiff_of_sixteen_bits(white_is_zero: bool) -> None:
    grey = np.linspace(0, 65535, 64).astype("<u2").reshape(8, 8)
    data = bytearray(saved(Image.fromarray(grey), "TIFF"))
    tag = data.index(struct.pack("<HHI", 262, 3, 1))
    data[tag + 8] = 0 if white_is_zero else 1
    wanted = (grey >> 8).astype(np.uint8)
    found = decode_image(bytes(data))[..., 0]
    np.testing.assert_array_equal(found, 255 - wanted if white_is_zero else wanted)


def of_many_scans(count: int) -> bytes:
    data = saved(Image.fromarray(NOISE), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + data[-2:]


def test_a_jpeg_of_many_scans_is_refused_before_it_costs_time() -> None:
    assert outcome(saved(Image.fromarray(NOISE), "JPEG", progressive=True)) == "decoded"
    cause = outcome(of_many_scans(300))
    assert cause == "image has too many scans"  # one cause, however many


def test_tags_that_overlap_are_refused_before_each_is_copied() -> None:
    entries = [struct.pack("<HHII", 60_000 + n, 1, 1 << 20, 8) for n in range(1000)]
    count = struct.pack("<H", len(entries))
    data = b"II*\0" + struct.pack("<I", 8) + count + b"".join(entries) + bytes(1 << 20)
    assert outcome(data) == "image does not decode (tags that overlap)"


def test_exif_of_overlapping_tags_is_read_for_its_orientation_alone() -> None:
    entries = [struct.pack("<HHII", 60_000 + n, 1, 50_000, 8) for n in range(4000)]
    entries.insert(0, struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0))
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries)
    segment = b"\xff\xe1" + (2 + len(exif)).to_bytes(2, "big") + exif
    assert open_image(JPEG[:2] + segment + JPEG[2:]).height == 64


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("reduce", [1, 2, 8])
def test_strips_make_the_same_pixels(kind: str, reduce: int, monkeypatch) -> None:
    data = encode(NOISE, kind)
    whole = open_image(data).pixels(reduce)
    monkeypatch.setattr(decode, "_STRIP", 100)
    np.testing.assert_array_equal(open_image(data).pixels(reduce), whole)
