"""Views are torchvision's, drawn from the given generator alone, in a known order."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as V
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from tests.data.augmentations.pictures import picture
from tests.pretended_device import NAME, PretendedDevice, values_of
from xmodal.data.augmentations.colour import Colour, ColourConfig
from xmodal.data.deferred import Deferred

NOTHING = {"jitter": 0, "grey": 0, "blur": 0}


def view(image: Tensor, seed: int = 0, **config: Any) -> Tensor:
    return Colour(**config)(image, np.random.default_rng(seed))


def test_a_view_is_a_function_of_the_generator_alone() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    image = picture()
    original = image.clone()
    views = [view(image, seed) for seed in range(30)]
    assert torch.get_rng_state().equal(before)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 what must not matter
    assert all(view(image, seed).equal(views[seed]) for seed in range(30))
    assert len({tuple(one.flatten().tolist()) for one in views}) > 20
    assert image.equal(original)


@given(st.integers(2, 60), st.integers(0, 2**32))
@settings(deadline=None)
def test_a_view_has_the_shape_of_its_image(size: int, seed: int) -> None:
    found = view(picture(size), seed, jitter=1, grey=0.5, blur=1)
    assert found.shape == (3, size, size)
    assert found.dtype == torch.uint8


def test_nothing_asked_nothing_changed() -> None:
    image = picture()
    assert view(image, **NOTHING).equal(image)
    unchanged = view(image, jitter=1, grey=0, blur=0, brightness=0, contrast=0, saturation=0, hue=0)
    assert (unchanged.int() - image.int()).abs().max() <= 1


def test_draws_are_made_in_order() -> None:
    image = picture()
    for seed in range(20):
        random = np.random.default_rng(seed)
        assert random.random() < 1
        amounts = [random.uniform(0.6, 1.4), random.uniform(0.7, 1.3), random.uniform(0.2, 1.8)]
        amounts.append(random.uniform(-0.2, 0.2))
        changes = [V.adjust_brightness, V.adjust_contrast, V.adjust_saturation, V.adjust_hue]
        wanted = image
        for number in random.permutation(4):
            wanted = changes[number](wanted, amounts[number])
        if random.random() < 0.3:
            wanted = V.rgb_to_grayscale(wanted, 3)
        if random.random() < 0.6:
            width, sigma = 5, [random.uniform(0.5, 1)] * 2  # of 40 pixels
            wanted = wanted.permute(1, 2, 0).float().contiguous().permute(2, 0, 1)
            rows = V.gaussian_blur(wanted, [width, 1], sigma)
            wanted = V.gaussian_blur(rows, [1, width], sigma).round().to(torch.uint8)
        found = view(
            image,
            seed,
            jitter=1,
            brightness=0.4,
            contrast=0.3,
            saturation=0.8,
            hue=0.2,
            grey=0.3,
            blur=0.6,
            blur_sigma=(0.5, 1),
        )
        assert found.equal(wanted)


def test_a_strength_above_one_never_inverts() -> None:
    image = picture()
    for seed in range(20):
        bright = view(image, seed, **NOTHING | {"jitter": 1}, brightness=3, contrast=3)
        assert bright.shape == image.shape


@pytest.mark.parametrize(("share", "name"), [(0.2, "grey"), (0.5, "blur"), (0.8, "jitter")])
def test_each_change_is_as_frequent_as_asked(share: float, name: str) -> None:
    image, config = picture(12), NOTHING | {name: share, "blur_sigma": (1, 2)}
    count = sum(not view(image, seed, **config).equal(image) for seed in range(500))
    assert abs(count / 500 - share) < 0.07


def test_grey_has_no_colour() -> None:
    grey = view(picture(), **NOTHING | {"grey": 1})
    assert grey[0].equal(grey[1])
    assert grey[0].equal(grey[2])


@st.composite
def colours(draw: st.DrawFn) -> Colour:
    """Settings, of which each may be the least or the greatest that makes a difference."""
    shares = st.sampled_from([0.0, 0.5, 1.0])
    strengths = st.sampled_from([0.0, 0.4, 1.0, 3.0])
    return Colour(
        jitter=draw(shares),
        brightness=draw(strengths),
        contrast=draw(strengths),
        saturation=draw(strengths),
        hue=draw(st.sampled_from([0.0, 0.1, 0.5])),
        grey=draw(shares),
        blur=draw(shares),
        blur_sigma=draw(st.sampled_from([(0.01, 0.01), (0.1, 2.0), (9.0, 9.0)])),
    )


@given(colours(), st.integers(2, 40), st.integers(0, 2**32))
@settings(deadline=None, max_examples=60)
def test_a_batch_is_changed_as_its_images_one_by_one(colour: Colour, size: int, seed: int) -> None:
    noise = torch.randint(0, 256, (3, size, size), generator=torch.Generator().manual_seed(seed))
    images = [noise.to(torch.uint8), *(picture(size, number) for number in range(5))]
    drawn = [colour.draw(np.random.default_rng(seed + row)) for row in range(len(images))]
    found = colour.apply(torch.stack(images), torch.from_numpy(np.stack(drawn)))
    for row, image in enumerate(images):
        wanted = colour(image, np.random.default_rng(seed + row))
        assert (found[row].int() - wanted.int()).abs().max() <= 1


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_every_order_of_changes_is_kept_in_a_batch(order: tuple[int, ...]) -> None:
    changes = [V.adjust_brightness, V.adjust_contrast, V.adjust_saturation, V.adjust_hue]
    amounts = [1.3, 0.7, 1.4, 0.08]
    images = torch.stack([picture(24, seed) for seed in range(3)])
    drawn = torch.zeros(3, 10, dtype=torch.float64)
    drawn[1, :4] = torch.tensor(amounts, dtype=torch.float64)
    drawn[1, [4 + change for change in order]] = torch.arange(1.0, 5, dtype=torch.float64)
    found = Colour().apply(images, drawn)
    wanted = images[1]
    for change in order:
        wanted = changes[change](wanted, amounts[change])
    assert found[::2].equal(images[::2])
    assert found[1].equal(wanted)


def test_a_device_is_not_waited_for() -> None:
    colour = Deferred(True, Colour())
    images = torch.stack([picture(24, seed) for seed in range(6)])
    drawn = np.stack([colour.draw(np.random.default_rng(seed)) for seed in range(6)])
    wanted = colour.apply(images, torch.from_numpy(drawn))
    with PretendedDevice() as device:
        moved = [one.to(NAME, non_blocking=True) for one in (images, torch.from_numpy(drawn))]
        found = colour.apply(*moved)
        assert not device.waits
    assert values_of(found).equal(wanted)


@pytest.mark.parametrize(
    "wrong",
    [
        {"jitter": 1.1},
        {"grey": -0.1},
        {"blur": 2},
        {"brightness": -1},
        {"hue": 0.6},
        {"blur_sigma": (0, 1)},
        {"blur_sigma": (2, 1)},
        {"solar": 1},
    ],
)
def test_what_no_view_can_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ColourConfig(**wrong)


def test_the_defaults_are_those_of_the_papers() -> None:
    assert ColourConfig().build() == Colour()
    assert ColourConfig().model_dump() == {
        "kind": "colour",
        "jitter": 0.8,
        "brightness": 0.4,
        "contrast": 0.4,
        "saturation": 0.4,
        "hue": 0.1,
        "grey": 0.2,
        "blur": 0.5,
        "blur_sigma": (0.1, 2.0),
    }
