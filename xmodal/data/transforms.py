"""From an image's pixels to the square that an encoder sees: crop first, then resize once."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class ImageTransform:
    """A random crop and flip in training (`crop`, `flip`), the central square otherwise."""

    size: int
    crop: tuple[float, float] | None = None
    flip: bool = False

    def __call__(self, pixels: np.ndarray, random: np.random.Generator) -> Tensor:
        """Return (3, size, size) uint8 of (height, width, 3) uint8 pixels."""
        height, width = pixels.shape[:2]
        if self.crop:
            top, left, rows, columns = random_crop(height, width, self.crop, random)
        else:
            top, left, rows, columns = central_square(height, width)
        image = resize(pixels[top : top + rows, left : left + columns], self.size)
        return image.flip(2) if self.flip and random.random() < 0.5 else image


def random_crop(
    height: int, width: int, share: tuple[float, float], random: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draw (top, left, height, width) of a crop: area uniform in `share` of the image, ratio of
    its sides log-uniform in 3/4 to 4/3, as Inception's (Szegedy et al. 2015); the central square
    when ten draws do not fit.
    """
    for _ in range(10):
        area = height * width * random.uniform(*share)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        columns, rows = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < columns <= width and 0 < rows <= height:
            top = int(random.integers(height - rows + 1))
            left = int(random.integers(width - columns + 1))
            return top, left, rows, columns
    return central_square(height, width)


def central_square(height: int, width: int) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) of the largest square in the middle."""
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


def resize(pixels: np.ndarray, size: int) -> Tensor:
    """Resize (height, width, 3) uint8 pixels to (3, size, size) uint8, bicubic and antialiased."""
    # (height, width, channel) memory seen as (1, 3, height, width) is channels-last, for which
    # torch resizes in uint8 without a float copy.
    image = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]
    if image.shape[-2:] != (size, size):
        image = F.interpolate(image, (size, size), mode="bicubic", antialias=True)
    return image[0].contiguous()
