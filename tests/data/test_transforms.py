"""Crops lie in the image and have the area that was asked for; resizing is Pillow's."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.shard_sets import encode
from xmodal.data.decode import BadSample, EncodedImage, open_image
from xmodal.data.preprocessing import PreprocessingConfig
from xmodal.data.transforms import ImageTransform, central_square, cut, random_crop, resize, snap

SIDE = st.integers(1, 12) | st.integers(1, 700)


def photograph(
    height: int, width: int, seed: int = 0, scales: Sequence[int] = (1, 3, 9, 27)
) -> np.ndarray:
    """Pixels with structure at every scale, (height, width, 3)."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = sum(
        np.sin(x * random.normal() / scale + y * random.normal() / scale + random.normal())
        for scale in scales
        for _ in range(3)
    )
    return (
        np.stack([128 + shift + 25 * waves for shift in (0, 10, -10)], 2)
        .clip(0, 255)
        .astype(np.uint8)
    )


def png(pixels: np.ndarray) -> EncodedImage:
    return open_image(encode(pixels))


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
    images = [ImageTransform(24)(png(pixels), np.random.default_rng(seed)) for seed in range(3)]
    wanted = resize(pixels[:, 10:40], 24)
    assert all(image.equal(wanted) for image in images)


def test_half_of_the_images_are_mirrored() -> None:
    image = png(photograph(16, 16))
    wanted = resize(image.pixels(), 16)
    images = [ImageTransform(16, flip=True)(image, np.random.default_rng(n)) for n in range(200)]
    mirrored = [image.equal(wanted.flip(2)) for image in images]
    assert all(m or image.equal(wanted) for m, image in zip(mirrored, images, strict=True))
    assert 70 < sum(mirrored) < 130


def test_a_crop_is_cut_out_and_then_resized() -> None:
    pixels = photograph(80, 120)
    image = ImageTransform(16, crop=(0.2, 0.4))(png(pixels), np.random.default_rng(5))
    top, left, rows, columns = random_crop(80, 120, (0.2, 0.4), np.random.default_rng(5))
    assert image.equal(resize(pixels[top : top + rows, left : left + columns], 16))


@given(SIDE, SIDE, st.integers(1, 40), st.booleans(), st.integers(0, 2**32))
@settings(deadline=None)
def test_any_image_becomes_the_square(
    height: int, width: int, size: int, scaled: bool, seed: int
) -> None:
    transform = ImageTransform(size, (0.1, 1), flip=True, scaled_decoding=scaled)
    pixels = np.full((height, width, 3), (10, 100, 200), np.uint8)
    image = transform(png(pixels), np.random.default_rng(seed))
    assert image.shape == (3, size, size)
    assert image.dtype == torch.uint8
    assert [channel.unique().tolist() for channel in image] == [[10], [100], [200]]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("transform", [ImageTransform(24), ImageTransform(24, (0.2, 1), True)])
def test_a_row_of_a_batch_is_written_like_a_square_of_its_own(
    transform: ImageTransform, layout: torch.memory_format
) -> None:
    images = [png(photograph(30, 50, seed)) for seed in range(4)]
    batch = torch.zeros(6, 3, 24, 24, dtype=torch.uint8).contiguous(memory_format=layout)
    for row, image in enumerate(images):
        out = batch[row + 1]
        written = transform(image, np.random.default_rng(row), out)
        assert written.data_ptr() == out.data_ptr()
    for row, image in enumerate(images):
        assert batch[row + 1].equal(transform(image, np.random.default_rng(row)))
    assert not batch[[0, 5]].any()


def test_a_broken_image_leaves_the_row() -> None:
    row = torch.full((3, 8, 8), 7, dtype=torch.uint8)
    with pytest.raises(BadSample):
        ImageTransform(8)(
            open_image(encode(photograph(50, 50), "JPEG")[:-40]), np.random.default_rng(0), row
        )
    assert row.unique().tolist() == [7]


def test_the_square_lies_in_memory_as_channels_last_batches_do() -> None:
    image = ImageTransform(24, crop=(0.3, 0.6))(png(photograph(60, 50)), np.random.default_rng(0))
    batch = torch.empty(2, 3, 24, 24).contiguous(memory_format=torch.channels_last)
    assert image.stride() == batch[0].stride()


def test_what_is_random_is_drawn_in_order_and_from_the_given_generator_alone() -> None:
    def augment(image: torch.Tensor, random: np.random.Generator) -> torch.Tensor:
        drawn.append(random.random())
        return 255 - image

    drawn: list[float] = []
    image = png(photograph(60, 80))
    torch.manual_seed(0)
    before = torch.get_rng_state()
    transform = ImageTransform(16, crop=(0.2, 0.9), flip=True, augment=augment)
    found = transform(image, np.random.default_rng(8))
    assert torch.get_rng_state().equal(before)
    random = np.random.default_rng(8)
    wanted = resize(cut(image.pixels(), random_crop(60, 80, (0.2, 0.9), random)), 16)
    wanted = 255 - (wanted.flip(2) if random.random() < 0.5 else wanted)
    assert found.equal(wanted)
    assert drawn == [random.random()]


class Asked(EncodedImage):
    """An image that notes by how much its decoder was asked to reduce."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__(height, width, 1, self.decode)
        self.reductions: list[int] = []

    def decode(self, reduce: int) -> np.ndarray:
        self.reductions.append(reduce)
        return np.zeros((-(-self.height // reduce), -(-self.width // reduce), 3), np.uint8)


@pytest.mark.parametrize(
    ("side", "reduce"),
    [(63, 1), (64, 2), (127, 2), (128, 4), (255, 4), (256, 8), (2000, 8), (20, 1), (32, 1)],
)
def test_the_decoder_shrinks_as_far_as_the_crop_leaves_room(side: int, reduce: int) -> None:
    whole, part = Asked(side, side), Asked(3 * side, side)
    for image in (whole, part):
        ImageTransform(32, scaled_decoding=True)(image, np.random.default_rng(0))
        assert image.reductions == [reduce]
    plain = Asked(side, side)
    ImageTransform(32)(plain, np.random.default_rng(0))
    assert plain.reductions == [1]


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_scaled_decoding_shows_the_chosen_crop_to_a_grey_level(kind: str) -> None:
    image = open_image(encode(photograph(481, 643, scales=(9, 27)), kind))
    scaled = ImageTransform(64, (0.1, 1), scaled_decoding=True)
    reductions = set()
    for seed in range(20):
        crop, reduce = scaled.choose(481, 643, np.random.default_rng(seed))
        wanted = resize(cut(image.pixels(), crop), 64).int()
        found = scaled(image, np.random.default_rng(seed)).int()
        assert (found - wanted).abs().double().mean() < 1
        reductions.add(reduce)
    assert reductions >= {2, 4}


def test_without_scaled_decoding_the_crop_is_as_drawn() -> None:
    chosen = ImageTransform(8, (0.1, 1)).choose(481, 643, np.random.default_rng(3))
    assert chosen == (random_crop(481, 643, (0.1, 1), np.random.default_rng(3)), 1)


@given(SIDE, SIDE, st.sampled_from([1, 2, 4, 8]), st.integers(0, 2**32))
def test_a_snapped_crop_is_whole_pixels_of_the_reduced_image(
    height: int, width: int, reduce: int, seed: int
) -> None:
    drawn = random_crop(height, width, (0.01, 1), np.random.default_rng(seed))
    assume(min(drawn[2:]) >= reduce)
    crop = snap(drawn, reduce, height, width)
    place = np.stack(np.mgrid[: -(-height // reduce), : -(-width // reduce)], 2) * reduce
    part = cut(place, crop, reduce)
    for axis, side in ((0, height), (1, width)):
        assert part[0, 0, axis] == crop[axis]
        assert part[-1, -1, axis] + reduce == crop[axis] + crop[axis + 2] <= side
        assert abs(crop[axis] - drawn[axis]) < reduce
        assert 0 <= drawn[axis + 2] - crop[axis + 2] < reduce


@given(
    SIDE,
    SIDE,
    st.integers(1, 40),
    st.sampled_from(["shortest", "squash", "longest"]),
    st.sampled_from(["bicubic", "bilinear", "lanczos"]),
    st.sampled_from(["torch", "pillow"]),
)
def test_any_image_becomes_a_models_square(
    height: int, width: int, size: int, mode: str, interpolation: str, resizer: str
) -> None:
    settings = PreprocessingConfig(
        resize=mode, interpolation=interpolation, resizer=resizer, fill=200
    )
    pixels = np.full((height, width, 3), (10, 100, 200), np.uint8)
    image = ImageTransform(size, preprocessing=settings)(png(pixels), np.random.default_rng(0))
    assert image.shape == (3, size, size)
    assert image.dtype == torch.uint8
    inside = [channel.unique().tolist() for channel in image]
    if mode == "longest":
        assert all(
            {value} <= set(found) <= {value, 200}
            for value, found in zip((10, 100, 200), inside, strict=True)
        )
    else:
        assert inside == [[10], [100], [200]]


def test_the_longest_side_fits_and_padding_is_the_same_on_both_ends() -> None:
    settings = PreprocessingConfig(resize="longest", fill=7)
    pixels = np.full((20, 40, 3), 100, np.uint8)
    image = ImageTransform(8, preprocessing=settings)(png(pixels), np.random.default_rng(0))
    assert image[0, :, 3].tolist() == [7, 7, 100, 100, 100, 100, 7, 7]
    assert (image == image[:1, :, :1]).all()


def test_a_random_crop_takes_the_place_of_a_models_resizing_with_its_interpolation() -> None:
    settings = PreprocessingConfig(resize="squash", interpolation="bilinear", resizer="pillow")
    pixels = photograph(80, 120)
    transform = ImageTransform(16, crop=(0.2, 0.4), preprocessing=settings)
    found = transform(png(pixels), np.random.default_rng(5)).permute(1, 2, 0).numpy()
    top, left, rows, columns = random_crop(80, 120, (0.2, 0.4), np.random.default_rng(5))
    part = Image.fromarray(pixels[top : top + rows, left : left + columns])
    assert (found == np.asarray(part.resize((16, 16), Image.Resampling.BILINEAR))).all()
    whole = ImageTransform(16, preprocessing=settings)(png(pixels), np.random.default_rng(5))
    squashed = np.asarray(Image.fromarray(pixels).resize((16, 16), Image.Resampling.BILINEAR))
    assert (whole.permute(1, 2, 0).numpy() == squashed).all()
