"""Classes of a set's images, from the samples' labels; a text has those of its image."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xmodal.evaluation.gallery import Gallery


@dataclass(frozen=True)
class Classes:
    """Classes of each image: any number, and none where a sample has no label."""

    names: Sequence[str]  # in alphabetical order, or in that of a list of them
    of_images: Tensor  # (images, classes) bool

    def shared_by(self, images: Tensor | slice) -> Tensor:
        """Return whether each of some images shares a class with each of all, (some, images)."""
        of_images = self.of_images.float()
        return of_images[images] @ of_images.T > 0.5


def classes_of(gallery: Gallery) -> Classes:
    """Return the classes that a gallery's images are labelled with."""
    names = sorted({label for labels in gallery.labels for label in labels})
    column = {name: number for number, name in enumerate(names)}
    of_images = memberships(gallery.labels, column.__getitem__, len(names))
    return Classes(names, of_images.to(gallery.images.device))


def memberships(
    labels: Sequence[Sequence[str]], number: Callable[[str], int], count: int
) -> Tensor:
    """Return which images are of which of `count` classes, (images, classes) bool, by the `number`
    that each label stands for.
    """
    of_images = torch.zeros(len(labels), count, dtype=torch.bool)
    for row, own in enumerate(labels):
        of_images[row, [number(label) for label in own]] = True
    return of_images
