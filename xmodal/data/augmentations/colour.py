"""Views for self-supervision: colours jittered, grey, blurred, as in MoCo v2 and SimSiam."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from xmodal.data.augmentations.adjustments import blend, blur, grey, mean, turn_hue
from xmodal.data.augmentations.augmentation import Augmentation
from xmodal.data.augmentations.config import AugmentationConfig

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)  # the changes of jitter, as they are drawn
PLACES = (1, 2, 3, 4)  # of a change in their order
Probability = Annotated[float, Field(ge=0, le=1)]
Strength = Annotated[float, Field(ge=0, description="0: unchanged; s: times 1 - s to 1 + s")]


class ColourConfig(AugmentationConfig):
    """Colour jitter, grey and Gaussian blur, as in MoCo v2 and SimSiam."""

    kind: Literal["colour"] = "colour"
    builds: ClassVar[str] = "Colour"
    jitter: Probability = Field(0.8, description="share of the views whose colours are changed")
    brightness: Strength = 0.4
    contrast: Strength = 0.4
    saturation: Strength = 0.4
    hue: float = Field(
        0.1, ge=0, le=0.5, description="greatest turn of the hue, in whole turns, either way"
    )
    grey: Probability = Field(0.2, description="share of the views without colour")
    blur: Probability = Field(0.5, description="share of the views that are blurred")
    blur_sigma: tuple[float, float] = Field(
        (0.1, 2.0), description="least and greatest standard deviation of the blur, in pixels"
    )

    @field_validator("blur_sigma")
    @classmethod
    def _deviations(cls, sigma: tuple[float, float]) -> tuple[float, float]:
        if not 0 < sigma[0] <= sigma[1]:
            raise ValueError("write [least, greatest], 0 < least <= greatest")
        return sigma


@dataclass(frozen=True)
class Colour(Augmentation):
    """Colour jitter, grey and Gaussian blur, each with its probability (Chen et al. 2020).

    A strength s changes by a factor from 1 - s to 1 + s, the hue by at most `hue` whole turns.
    """

    width = 10

    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    grey: float = 0.2
    blur: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)  # least and greatest, in pixels

    def draw(self, random: np.random.Generator) -> np.ndarray:
        """Return the amounts of brightness, contrast, saturation and hue; their places in the
        order of changes, from 1, or 0; 1 for grey; the deviation of the blur, or 0.
        """
        amounts, places = np.zeros((2, len(PLACES)))
        if random.random() < self.jitter:
            factors = (self.brightness, self.contrast, self.saturation)
            amounts[:HUE] = [_factor(strength, random) for strength in factors]
            amounts[HUE] = random.uniform(-self.hue, self.hue)
            places[random.permutation(len(PLACES))] = PLACES
        is_grey = random.random() < self.grey
        sigma = random.uniform(*self.blur_sigma) if random.random() < self.blur else 0
        return np.array([*amounts, *places, is_grey, sigma])

    def __call__(self, image: Tensor, random: np.random.Generator) -> Tensor:
        """Return a view of an image: as `apply` does, without the changes that were not drawn."""
        drawn = self.draw(random)
        places, is_grey, is_blurred = drawn[4:8], drawn[8], drawn[9]
        amounts, _, _, sigma = _columns(torch.from_numpy(drawn)[None])
        pixels = image[None].float()
        for change in places.argsort() if places.any() else ():
            pixels = _change(pixels, change, amounts[change])
        if is_grey:
            pixels = grey(pixels).expand_as(pixels)
        if is_blurred:
            pixels = blur(pixels, sigma)
        return pixels[0].to(torch.uint8)

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Return views of images: every change is computed of all, and taken where it was drawn."""
        amounts, places, is_grey, sigma = _columns(drawn)
        pixels = _jitter(images.float(), amounts, places)
        pixels = torch.where(is_grey > 0, grey(pixels), pixels)
        blurred = blur(pixels, sigma.where(sigma > 0, 1))
        return torch.where(sigma > 0, blurred, pixels).to(torch.uint8)


def _columns(drawn: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return amounts and places, (changes, batch, 1, 1, 1); grey and sigma, (batch, 1, 1, 1)."""
    columns = drawn.T[..., None, None, None]
    return columns[:4], columns[4:8], columns[8], columns[9]


def _change(pixels: Tensor, change: int, amount: Tensor) -> Tensor:
    """Make one change of jitter."""
    if change == HUE:
        return turn_hue(pixels, amount)
    if change == BRIGHTNESS:
        return blend(pixels, pixels.new_zeros(()), amount)
    levels = grey(pixels)
    return blend(pixels, mean(levels) if change == CONTRAST else levels, amount)


def _jitter(pixels: Tensor, amounts: Tensor, places: Tensor) -> Tensor:
    """Change colours in the order of each image: those before the hue, the hue, those after it.

    The hue, which takes most of the time, is turned once for all.
    """
    is_before = places < places[HUE]
    for place in PLACES[:-1]:
        pixels = _blend(pixels, amounts, is_before & (places == place))
    turned = turn_hue(pixels, amounts[HUE])
    pixels = torch.where(places[HUE] > 0, turned, pixels)
    for place in PLACES[1:]:
        pixels = _blend(pixels, amounts, ~is_before & (places == place))
    return pixels


def _blend(pixels: Tensor, amounts: Tensor, is_now: Tensor) -> Tensor:
    """Change of each image what it `is_now` the turn of, (changes, batch, 1, 1, 1); or nothing."""
    levels = grey(pixels)
    others = torch.where(is_now[CONTRAST], mean(levels), levels) * ~is_now[BRIGHTNESS]
    factor = amounts.where(is_now, 1)[:HUE].prod(0)
    return blend(pixels, others, factor)


def _factor(strength: float, random: np.random.Generator) -> float:
    return random.uniform(max(0.0, 1 - strength), 1 + strength)
