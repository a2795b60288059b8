"""Crops lie in the image and have the area that was asked for; resizing is Pillow's."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from xmodal.data.transforms import ImageTransform, central_square, random_crop, resize

SIDE = st.integers(1, 12) | st.integers(1, 700)


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Pixels with structure at every scale, (height, width, 3)."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = sum(
        np.sin(x * random.normal() / scale + y * random.normal() / scale + random.normal())
        for scale in (1, 3, 9, 27)
        for _ in range(3)
    )
    return (
        np.stack([128 + shift + 25 * waves for shift in (0, 10, -10)], 2)
        .clip(0, 255)
        .astype(np.uint8)
    )


@given(SIDE, SIDE, st.floats(0.01, 1), st.floats(0.01, 1), st.integers(0, 2**32))
def test_a_random_crop_lies_in_the_image_and_has_the_area(
    height: int, width: int, one: float, other: float, seed: int
) -> None:
    share = min(one, other), max(one, other)
    crop = random_crop(height, width, share, np.random.default_rng(seed))
    top, left, rows, columns = crop
    assert 0 <= top <= top + rows <= height
    assert 0 <= left <= left + columns <= width
    assert rows > 0
    assert columns > 0
    if crop == central_square(height, width):
        return
    # Sides are rounded to whole pixels.
    least, greatest = share[0] * height * width, share[1] * height * width
    assert (rows - 0.5) * (columns - 0.5) <= greatest + 1e-6
    assert (rows + 0.5) * (columns + 0.5) >= least - 1e-6
    assert (columns - 0.5) / (rows + 0.5) <= 4 / 3 + 1e-9
    assert (columns + 0.5) / (rows - 0.5) >= 3 / 4 - 1e-9


def test_random_crops_fill_the_range_of_areas_places_and_ratios() -> None:
    random = np.random.default_rng(0)
    crops = np.array([random_crop(400, 400, (0.1, 0.5), random) for _ in range(3000)])
    top, left, rows, columns = crops.T
    area = rows * columns / 160_000
    # Uniform in area: a quarter of the crops in a quarter of the range.
    counts = np.histogram(area, bins=4, range=(0.1, 0.5))[0]
    assert np.all(np.abs(counts - 750) < 100)
    ratio = np.log(columns / rows)
    assert abs(ratio.mean()) < 0.02
    assert ratio.max() > math.log(1.3)
    assert ratio.min() < math.log(0.77)
    assert np.all([(free == 0).any() for free in (top, left, 400 - top - rows)])
    assert abs((top / (400 - rows)).mean() - 0.5) < 0.03


def test_a_crop_never_leaves_a_small_image() -> None:
    random = np.random.default_rng(0)
    for _ in range(500):
        top, left, rows, columns = random_crop(4, 5, (0.2, 1), random)
        assert 0 <= top <= 4 - rows
        assert 0 <= left <= 5 - columns


def test_the_central_square() -> None:
    assert central_square(10, 21) == (0, 5, 10, 10)
    assert central_square(21, 10) == (5, 0, 10, 10)


@pytest.mark.parametrize(
    ("shape", "mean"),
    [((500, 375), 0.1), ((300, 301), 0.1), ((64, 64), 0.1), ((40, 17), 0.4), ((1, 90), 0.4)],
)
@pytest.mark.parametrize("size", [64, 33])
def test_resizing_equals_pillows(shape: tuple[int, int], mean: float, size: int) -> None:
    pixels = photograph(*shape)
    found = resize(pixels, size).permute(1, 2, 0).numpy().astype(int)
    theirs = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC))
    difference = np.abs(found - theirs.astype(int))
    assert difference.mean() < mean
    assert difference.max() <= 2


def test_resizing_a_part_of_an_image_sees_nothing_around_it() -> None:
    pixels = np.zeros((60, 60, 3), np.uint8)
    pixels[10:40, 20:50] = 200
    assert resize(pixels[10:40, 20:50], 16).unique().tolist() == [200]


def test_without_crop_it_is_the_central_square_whatever_is_drawn() -> None:
    pixels = photograph(30, 50)
    images = [ImageTransform(24)(pixels, np.random.default_rng(seed)) for seed in range(3)]
    wanted = resize(pixels[:, 10:40], 24)
    assert all(image.equal(wanted) for image in images)


def test_half_of_the_images_are_mirrored() -> None:
    pixels = photograph(16, 16)
    wanted = resize(pixels, 16)
    images = [ImageTransform(16, flip=True)(pixels, np.random.default_rng(n)) for n in range(200)]
    mirrored = [image.equal(wanted.flip(2)) for image in images]
    assert all(m or image.equal(wanted) for m, image in zip(mirrored, images, strict=True))
    assert 70 < sum(mirrored) < 130


def test_a_crop_is_cut_out_and_then_resized() -> None:
    pixels = photograph(80, 120)
    image = ImageTransform(16, crop=(0.2, 0.4))(pixels, np.random.default_rng(5))
    top, left, rows, columns = random_crop(80, 120, (0.2, 0.4), np.random.default_rng(5))
    assert image.equal(resize(pixels[top : top + rows, left : left + columns], 16))
