"""Views for self-supervision: colours jittered, grey, blurred, as in MoCo v2 and SimSiam.

Imports torchvision, which takes a second: import this only where a recipe asks for it.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torchvision.transforms.v2.functional as V
from torch import Tensor

from xmodal.data.config import AugmentConfig


@dataclass(frozen=True)
class Augment:
    """Colour jitter, grey and Gaussian blur, each with its probability (Chen et al. 2020)."""

    config: AugmentConfig

    def __call__(self, image: Tensor, random: np.random.Generator) -> Tensor:
        """Return a view of an image, both (3, size, size) uint8, drawn from `random` alone."""
        if random.random() < self.config.jitter:
            image = self._jitter(image, random)
        if random.random() < self.config.grey:
            image = V.rgb_to_grayscale(image, num_output_channels=3)
        if random.random() < self.config.blur:
            image = blur(image, random.uniform(*self.config.blur_sigma))
        return image

    def _jitter(self, image: Tensor, random: np.random.Generator) -> Tensor:
        """Change brightness, contrast, saturation and hue, in an order that is drawn."""
        config = self.config
        changes = [
            (V.adjust_brightness, _factor(config.brightness, random)),
            (V.adjust_contrast, _factor(config.contrast, random)),
            (V.adjust_saturation, _factor(config.saturation, random)),
            (V.adjust_hue, random.uniform(-config.hue, config.hue)),
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
