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
    return numbered_classes(gallery, names, column.__getitem__)


def numbered_classes(
    gallery: Gallery, names: Sequence[str], number: Callable[[str], int]
) -> Classes:
    """Return the classes `names`, of which a label stands for that of its `number`."""
    of_images = torch.zeros(len(gallery.labels), len(names), dtype=torch.bool)
    for row, labels in enumerate(gallery.labels):
        of_images[row, [number(label) for label in labels]] = True
    return Classes(names, of_images.to(gallery.images.device))
