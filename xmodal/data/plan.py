"""The order of samples: a pure function of the shards, a seed and one integer, the position.

The epoch's order is the shards in a new permutation, end to end. It is cut into *lanes*, runs of
consecutive samples whose lengths differ by at most one, and the lanes are interleaved: position
`p` is epoch `p // N`, lane `(p % N) % lanes`, index `(p % N) // lanes` in that lane. A lane is read
from a random sample on to its end, and then from its beginning: where shards are of one size, the
same samples would else meet in every epoch. Inside a lane, blocks of `window` samples are permuted;
the first block of each is cut short at random, so that lanes do not all begin their next block at
once. Epochs follow each other without a seam, so every global batch is full, every sample comes
exactly once an epoch, and nothing depends on the number of ranks or workers.

Weighted samples come several times an epoch or not in every one. All of this then holds for entries
in the place of samples, and `occurrences.py` says which sample each entry of an epoch stands for.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from xmodal.data.occurrences import Occurrences

_SHARDS, _PHASE, _BLOCK, _TURN, _OFFSET = range(5)  # what a permutation or number is drawn for


class Block(NamedTuple):
    """Samples of a lane that are permuted together: `start` to `stop` of the order in which lanes
    follow each other. They stand in the tars one after the other.
    """

    epoch: int
    lane: int
    start: int
    stop: int


class Plan:
    """The endless order of a data set of shards, of `num_samples` samples an epoch.

    Samples are numbered in the manifest's order: shard by shard, as they stand in the tars. Of
    several data sets each has an order of its own, by its number `data_set`. `sample_weights` are
    the expected occurrences of each shard's samples in an epoch; None: every sample comes once.
    Memory is that of the shards and of one block a lane, not of the samples; with weights, that of
    them and of one shard a lane.
    """

    def __init__(
        self,
        shard_sizes: Sequence[int],
        *,
        seed: int,
        lanes: int,
        window: int,
        data_set: int = 0,
        sample_weights: Sequence[np.ndarray] | None = None,
    ) -> None:
        self.shard_sizes = np.asarray(shard_sizes, dtype=np.int64)
        self.occurrences = None if sample_weights is None else Occurrences(sample_weights)
        occurrences = self.occurrences
        self.num_samples = occurrences.num_entries if occurrences else int(self.shard_sizes.sum())
        self.seed, self.lanes, self.window, self.data_set = seed, lanes, window, data_set
        self._starts = np.cumsum(self.shard_sizes) - self.shard_sizes
        # Around the seam of two epochs, lanes read blocks of both.
        self._shards = lru_cache(maxsize=2)(self._permute_shards)
        self._phases = lru_cache(maxsize=2)(self._draw_phases)
        self._turns = lru_cache(maxsize=2)(self._draw_turns)
        self.samples_of = lru_cache(maxsize=4 * lanes)(self._permute_block)
        self._entries = lru_cache(maxsize=2 * lanes)(self._samples_of_entries)

    def sample_at(self, position: int) -> int:
        """Return the number of the sample at a position."""
        block, index = self.block_at(position)
        return int(self.samples_of(block)[index])

    def block_at(self, position: int) -> tuple[Block, int]:
        """Return the block that a position lies in, and its index there."""
        epoch, place = divmod(position, self.num_samples)
        index, lane = divmod(place, self.lanes)
        start, stop = self._lane_start(lane), self._lane_start(lane + 1)
        # Blocks end at the lane's phase and at multiples of the window after it.
        end = self._phases(epoch)[lane] + self.window
        end += (index - end) // self.window * self.window + self.window
        first, last = max(0, end - self.window), min(stop - start, end)
        # The lane's end and its beginning are in blocks of their own.
        seam = stop - start - self._turn(epoch, lane)
        first, last = (first, min(last, seam)) if index < seam else (max(first, seam), last)
        return Block(epoch, lane, start + first, start + last), index - first

    def neighbours(self, position: int, reach: int) -> list[int]:
        """Return the positions whose samples may replace an unreadable one at `position`:
        those of up to `reach` samples on either side in the same lane, nearest first, then in
        the lanes beside it, since a shard that is cut can lack a lane's whole stretch.
        """
        epoch, place = divmod(position, self.num_samples)
        start = epoch * self.num_samples

        def around(stride: int) -> list[int]:
            steps = [way * far * stride for far in range(1, reach + 1) for way in (-1, 1)]
            return [start + place + s for s in steps if 0 <= place + s < self.num_samples]

        return list(dict.fromkeys(around(self.lanes) + around(1)))

    def _lane_start(self, lane: int) -> int:
        """Return the place in the epoch's order at which a lane begins."""
        length, longer = divmod(self.num_samples, self.lanes)
        return lane * length + min(lane, longer)

    def _draw_phases(self, epoch: int) -> list[int]:
        """Return how many samples the first block of each lane holds, less than the window."""
        drawn = self._draw(epoch, 0, _PHASE, self.lanes)
        return [int(phase) for phase in drawn % np.uint64(self.window)]

    def _draw_turns(self, epoch: int) -> list[int]:
        return [int(drawn) for drawn in self._draw(epoch, 0, _TURN, self.lanes)]

    def _turn(self, epoch: int, lane: int) -> int:
        """Return at which of its samples a lane begins in an epoch."""
        return self._turns(epoch)[lane] % (self._lane_start(lane + 1) - self._lane_start(lane))

    def _permute_shards(self, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the shards of an epoch in order, and the places at which each begins and ends."""
        sizes = self.shard_sizes
        if self.occurrences:
            sizes = self.occurrences.shard_sizes(self._offset(epoch))
        shards = _permutation(self._draw(epoch, 0, _SHARDS, len(sizes)))
        ends = np.cumsum(sizes[shards])
        return shards, ends - sizes[shards], ends

    def _permute_block(self, block: Block) -> np.ndarray:
        """Return the numbers of a block's samples in the order in which they come, (samples,)."""
        shards, begins, ends = self._shards(block.epoch)
        drawn = self._draw(block.epoch, block.start, _BLOCK, block.stop - block.start)
        start, stop = self._lane_start(block.lane), self._lane_start(block.lane + 1)
        first = (self._turn(block.epoch, block.lane) + block.start - start) % (stop - start)
        places = start + first + _permutation(drawn)
        order = np.searchsorted(ends, places, side="right")
        inside = places - begins[order]
        if self.occurrences:
            for one in np.unique(order).tolist():
                entries = self._entries(block.epoch, int(shards[one]))
                inside[order == one] = entries[inside[order == one]]
        return self._starts[shards[order]] + inside

    def _samples_of_entries(self, epoch: int, shard: int) -> np.ndarray:
        """Return the sample of each entry of a weighted shard in an epoch, (entries,)."""
        assert self.occurrences is not None
        return self.occurrences.samples(shard, self._offset(epoch))

    def _offset(self, epoch: int) -> float:
        """Return the random number in [0, 1) by which an epoch resamples weighted samples.

        It has 24 bits, so that adding it to the number of an entry is exact.
        """
        return int(self._draw(epoch, 0, _OFFSET, 1)[0] >> np.uint64(40)) * 2.0**-24

    def _draw(self, epoch: int, place: int, purpose: int, count: int) -> np.ndarray:
        """Return random 64-bit integers, (count,), the same on every machine and version.

        NumPy promises that for the raw output of its bit generators, not for its distributions.
        """
        counter = [0, place, epoch, purpose]
        return np.random.Philox(counter=counter, key=[self.seed, self.data_set]).random_raw(count)


def _permutation(drawn: np.ndarray) -> np.ndarray:
    return np.argsort(drawn, kind="stable")


def rank_positions(step: int, *, batch_size: int, rank: int, ranks: int) -> range:
    """Return the positions that a rank loads of global batch `step`: every `ranks`-th of it."""
    return range(step * batch_size + rank, (step + 1) * batch_size, ranks)
