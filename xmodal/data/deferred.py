"""Flips and augmentations that loading processes draw, and the training device applies."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from xmodal.data.augmentations.augmentation import Augmentation

PIXELS_AT_ONCE = 2**25  # so that a device needs about 1 GB for all that it computes of them
Augment = Callable[[Tensor, np.random.Generator], Tensor]


@dataclass(frozen=True)
class Deferred(Augmentation):
    """Flip of half of the views, then an augmentation: the same draws as in a loading process."""

    flip: bool
    augment: Augmentation | None = None

    @property
    def width(self) -> int:
        """Numbers that are drawn for a view."""
        return int(self.flip) + (self.augment.width if self.augment else 0)

    def draw(self, random: np.random.Generator) -> np.ndarray:
        """Return 1 for a flip, and the augmentation's numbers."""
        flips = [float(random.random() < 0.5)] if self.flip else []
        return np.array([*flips, *(self.augment.draw(random) if self.augment else ())])

    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Return the views of images, (batch, 3, size, size) uint8, on any device."""
        size = max(1, PIXELS_AT_ONCE // images[0].numel())
        parts = zip(images.split(size), drawn.split(size), strict=True)
        return torch.cat([self._apply(*part) for part in parts])

    def _apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        if self.flip:
            images = torch.where(drawn[:, :1, None, None] > 0, images.flip(3), images)
        return self.augment.apply(images, drawn[:, int(self.flip) :]) if self.augment else images


def can_defer(flip: bool, augment: Augment | None) -> bool:
    """Return True if there is something to do to a view, all of which can be done in batches.

    An augmentation that knows one image at a time stays in the loading processes, with the flip
    before it.
    """
    return isinstance(augment, Augmentation) if augment else flip
