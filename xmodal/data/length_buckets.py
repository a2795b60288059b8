"""Length buckets: global batches of texts of like length, so that less padding is computed.

A batch is padded to its longest text. With buckets the positions of a lane's block exchange what
comes at them: every batch has a target, a quantile of lengths, and the shortest text of a block
comes in the batch of the lowest target, the longest in that of the highest. All lanes follow the
same targets. What comes is what comes without buckets, sample, caption and crop; only its place in
the block is another. So every sample still comes once an epoch, blocks are read as before, and a
place remains a function of the shards, the seed and the position.

Targets are the fractional parts of `step · φ`, of which any stretch is spread evenly over [0, 1)
(Knuth, The Art of Computer Programming 3, section 6.4), in whole numbers of 64 bits: exact on every
machine.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from xmodal.data.chance import fraction

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # the golden ratio's fractional part, times 2^64


class Lengths(Protocol):
    """Lengths of the texts that are drawn from samples."""

    def drawn(self, number: int, drawn: float) -> int:
        """Return the length of the text that a random number in [0, 1) selects of a sample."""


class LengthBuckets:
    """Order of a block's entries by the lengths of their texts.

    `lengths` has those of each data set; `batch_size` is that of the global batch.
    """

    def __init__(self, lengths: Sequence[Lengths], *, seed: int, batch_size: int) -> None:
        self.lengths, self.seed, self.batch_size = lengths, seed, batch_size

    def order(self, data_set: int, positions: np.ndarray, samples: np.ndarray) -> np.ndarray:
        """Return for each position of a whole block the index of the entry that comes there.

        Args:
            data_set: number of the data set that the block is of.
            positions: (block,) int64 of the mixture, rising.
            samples: (block,) int64, the sample at each position without buckets, whose caption is
                drawn by that position.
        """
        of = self.lengths[data_set]
        lengths = [
            of.drawn(sample, fraction(self.seed, position))
            for sample, position in zip(samples.tolist(), positions.tolist(), strict=True)
        ]
        order = np.empty(len(lengths), dtype=np.int64)
        # Stable: among texts of one length, and positions of one batch, the order stays random.
        order[np.argsort(self._targets(positions), kind="stable")] = np.argsort(
            np.array(lengths), kind="stable"
        )
        return order

    def _targets(self, positions: np.ndarray) -> np.ndarray:
        steps = positions // self.batch_size + self.seed
        return steps.astype(np.uint64) * _GOLDEN
