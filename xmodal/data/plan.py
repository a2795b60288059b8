"""The order of samples: a pure function of the shards, a seed and one integer, the position.

The epoch's order is the shards in a new permutation, end to end. It is cut into *lanes*, runs of
consecutive samples whose lengths differ by at most one, and the lanes are interleaved: position
`p` is epoch `p // N`, lane `(p % N) % lanes`, index `(p % N) // lanes` in that lane. Inside a lane,
blocks of `window` samples are permuted. Epochs follow each other without a seam, so every global
batch is full, every sample comes exactly once an epoch, and nothing depends on the number of
ranks or workers.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np


class Plan:
    """The endless order of a data set of `sum(shard_sizes)` samples.

    Samples are numbered in the manifest's order: shard by shard, as they stand in the tars.
    """

    def __init__(self, shard_sizes: Sequence[int], *, seed: int, lanes: int, window: int) -> None:
        self.shard_sizes = np.asarray(shard_sizes, dtype=np.int64)
        self.num_samples = int(self.shard_sizes.sum())
        self.seed, self.lanes, self.window = seed, lanes, window
        self._order = lru_cache(maxsize=2)(self._compute_order)

    def sample_at(self, position: int) -> int:
        """Return the number of the sample at a position."""
        epoch, place = divmod(position, self.num_samples)
        return int(self._order(epoch)[place])

    def neighbours(self, position: int, reach: int) -> list[int]:
        """Return the positions of up to `reach` samples on either side in the same lane, nearest
        first: where a repeat is taken from when the sample at `position` cannot be read. A sample
        that has its lane to itself has those of the lanes beside it.
        """
        epoch, place = divmod(position, self.num_samples)
        start = epoch * self.num_samples

        def around(stride: int) -> list[int]:
            steps = [way * far * stride for far in range(1, reach + 1) for way in (-1, 1)]
            return [start + place + s for s in steps if 0 <= place + s < self.num_samples]

        return around(self.lanes) or around(1)

    def _compute_order(self, epoch: int) -> np.ndarray:
        """Return the sample numbers of an epoch by place in it, (num_samples,)."""
        random = np.random.default_rng([self.seed, epoch])
        starts = np.cumsum(self.shard_sizes) - self.shard_sizes
        shards = random.permutation(len(self.shard_sizes))
        sequence = np.concatenate(
            [np.arange(starts[s], starts[s] + self.shard_sizes[s]) for s in shards]
        )
        order = np.empty_like(sequence)
        begin = 0
        for lane in range(min(self.lanes, self.num_samples)):
            places = np.arange(lane, self.num_samples, self.lanes)
            run = sequence[begin : begin + len(places)]
            order[places] = self._permute_blocks(run, random)
            begin += len(places)
        return order

    def _permute_blocks(self, run: np.ndarray, random: np.random.Generator) -> np.ndarray:
        blocks = [run[i : i + self.window] for i in range(0, len(run), self.window)]
        return np.concatenate([random.permutation(block) for block in blocks])


def rank_positions(step: int, *, batch_size: int, rank: int, ranks: int) -> range:
    """Return the positions that a rank loads of global batch `step`: every `ranks`-th of it."""
    return range(step * batch_size + rank, (step + 1) * batch_size, ranks)
