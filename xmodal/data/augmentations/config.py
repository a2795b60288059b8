"""The family of augmentations."""

from typing import ClassVar

from xmodal.components.component import Component


class AugmentationConfig(Component):
    """An augmentation of each view of an image, after crop and flip.

    It builds an `Augmentation`, which a GPU applies to whole batches, or any function of an image,
    (3, size, size) uint8, and a `numpy.random.Generator`, which all of its randomness is drawn
    from, to an image of the same shape and type.
    """

    family: ClassVar[str] = "augmentation"
    default_kind: ClassVar[str] = "colour"
