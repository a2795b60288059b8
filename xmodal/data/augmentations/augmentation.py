"""Augmentations that draw their numbers first, so that whole batches can be changed later."""

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor


class Augmentation(ABC):
    """An augmentation whose numbers are drawn apart from the pixels.

    Where a GPU trains, loading processes only draw, and the GPU changes the whole batch.
    """

    @property
    @abstractmethod
    def width(self) -> int:
        """Numbers that are drawn for a view."""

    @abstractmethod
    def draw(self, random: np.random.Generator) -> np.ndarray:
        """Return the numbers of a view, (width,) float64, drawn from `random` alone."""

    @abstractmethod
    def apply(self, images: Tensor, drawn: Tensor) -> Tensor:
        """Return the views of images, both (batch, 3, size, size) uint8, by what was drawn for
        each, (batch, width) float64 on the same device.

        No shape and no decision of the host may depend on a value of either: it would have to wait
        for the device.
        """

    def __call__(self, image: Tensor, random: np.random.Generator) -> Tensor:
        """Return a view of an image, both (3, size, size) uint8, drawn from `random` alone."""
        return self.apply(image[None], torch.from_numpy(self.draw(random))[None])[0]
