"""Views for self-supervision: colours jittered, grey, blurred, as in MoCo v2 and SimSiam."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
import torchvision.transforms.v2.functional as V
from pydantic import Field, field_validator
from torch import Tensor

from xmodal.data.augmentations.config import AugmentationConfig

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
class Colour:
    """Colour jitter, grey and Gaussian blur, each with its probability (Chen et al. 2020).

    A strength s changes by a factor from 1 - s to 1 + s, the hue by at most `hue` whole turns.
    """

    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    grey: float = 0.2
    blur: float = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)  # least and greatest, in pixels

    def __call__(self, image: Tensor, random: np.random.Generator) -> Tensor:
        """Return a view of an image, both (3, size, size) uint8, drawn from `random` alone."""
        if random.random() < self.jitter:
            image = self._jitter(image, random)
        if random.random() < self.grey:
            image = V.rgb_to_grayscale(image, num_output_channels=3)
        if random.random() < self.blur:
            image = blur(image, random.uniform(*self.blur_sigma))
        return image

    def _jitter(self, image: Tensor, random: np.random.Generator) -> Tensor:
        """Change brightness, contrast, saturation and hue, in an order that is drawn."""
        changes = [
            (V.adjust_brightness, _factor(self.brightness, random)),
            (V.adjust_contrast, _factor(self.contrast, random)),
            (V.adjust_saturation, _factor(self.saturation, random)),
            (V.adjust_hue, random.uniform(-self.hue, self.hue)),
        ]
        for number in random.permutation(len(changes)):
            change, amount = changes[number]
            image = change(image, amount)
        return image


def blur(image: Tensor, sigma: float) -> Tensor:
    """Blur a (3, size, size) uint8 image by a Gaussian that is cut to a tenth of the size."""
    width = max(3, image.shape[-1] // 10 | 1)
    # Rows, then columns, in channels-last memory: as both at once, in a fifth of the time.
    image = image.permute(1, 2, 0).float().contiguous().permute(2, 0, 1)
    rows = V.gaussian_blur(image, [width, 1], [sigma, sigma])
    return V.gaussian_blur(rows, [1, width], [sigma, sigma]).round_().to(torch.uint8)


def _factor(strength: float, random: np.random.Generator) -> float:
    return random.uniform(max(0.0, 1 - strength), 1 + strength)
