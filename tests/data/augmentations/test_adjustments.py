"""Each change equals torchvision's, image by image, with an amount of its own."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision.transforms.v2.functional as V
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.data.augmentations.pictures import picture
from xmodal.data.augmentations.adjustments import blend, blur, grey, mean, turn_hue

BLACK = torch.zeros(())
EXTREMES = torch.cartesian_prod(*[torch.tensor([0, 1, 127, 128, 254, 255])] * 3)
# Every extreme colour of three channels, (3, 18, 12).
COLOURS = EXTREMES.T.reshape(3, 18, 12).to(torch.uint8)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    return blend(images, BLACK, factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    return blend(images, mean(grey(images)), factor)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    return blend(images, grey(images), factor)


FACTORS = st.one_of(st.sampled_from([0.0, 1.0, 2.0]), st.floats(0, 4))
TURNS = st.one_of(st.sampled_from([-0.5, 0.0, 0.5]), st.floats(-0.5, 0.5))


@pytest.mark.parametrize(
    ("change", "torchvisions", "amounts"),
    [
        (brightness, V.adjust_brightness, FACTORS),
        (contrast, V.adjust_contrast, FACTORS),
        (saturation, V.adjust_saturation, FACTORS),
        (turn_hue, V.adjust_hue, TURNS),
    ],
)
@given(data=st.data(), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=25)
def test_colours_change_as_torchvisions(
    change: Callable[[Tensor, Tensor], Tensor],
    torchvisions: Callable[[Tensor, float], Tensor],
    amounts: Any,
    data: st.DataObject,
    seed: int,
) -> None:
    drawn = data.draw(st.lists(amounts, min_size=3, max_size=3))
    noise = torch.randint(0, 256, COLOURS.shape, generator=torch.Generator().manual_seed(seed))
    images = torch.stack([COLOURS, noise.to(torch.uint8), picture(18, seed)[..., :12]])
    of_each = torch.tensor(drawn, dtype=torch.float64)[:, None, None, None]
    for found, image, amount in zip(change(images.float(), of_each), images, drawn, strict=True):
        assert found.to(torch.uint8).equal(torchvisions(image, amount))
        assert found.equal(found.round())


def test_grey_is_torchvisions() -> None:
    assert grey(COLOURS[None].float()).to(torch.uint8)[0].equal(V.rgb_to_grayscale(COLOURS, 1))


@pytest.mark.parametrize(("size", "length"), [(224, 23), (96, 9), (64, 7), (32, 3), (9, 3), (2, 3)])
def test_blurring_equals_torchvisions_in_both_directions_at_once(size: int, length: int) -> None:
    deviations = [0.1, 0.7, 2.0]
    images = torch.stack([picture(size, seed) for seed in range(3)])
    sigma = torch.tensor(deviations, dtype=torch.float64)[:, None, None, None]
    found = blur(images.float(), sigma)
    for row, deviation in enumerate(deviations):
        wanted = V.gaussian_blur(images[row], [length, length], [deviation, deviation])
        difference = (found[row] - wanted).abs()
        assert difference.max() <= 1
        assert difference.double().mean() < 0.01
