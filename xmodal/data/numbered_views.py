"""Augmentations of an image by number, so that what was computed of one has its picture again."""

from dataclasses import dataclass

import numpy as np

from xmodal.data.chance import VIEW, fraction, generator
from xmodal.data.samples import RawSample, hash_id
from xmodal.data.storage import split_url


@dataclass(frozen=True)
class NumberedViews:
    """`count` views of each image, which depend on `seed` and the sample, not on its position.

    MobileCLIP's reinforcement (Vasu et al. 2024, arXiv 2311.17049, section 3.1), where the numbers
    that were drawn are not stored, as they can be drawn again.
    """

    seed: int
    count: int

    def generator(self, sample: RawSample, number: int) -> np.random.Generator:
        """Return the random generator of a view of a sample, by its number from 0.

        The sample is known by its key and the name of its shard: another folder gives the same.
        """
        place = f"{split_url(sample.shard)[1]}/{sample.key}"
        return generator(self.seed, hash_id(place) % 2**64, number)

    def choose(self, seed: int, position: int) -> int:
        """Return the number of the view that training shows at a position."""
        return int(fraction(seed, position, VIEW) * self.count)
