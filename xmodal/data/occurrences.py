"""Systematic resampling: how often weighted samples come in an epoch.

An epoch has `N` entries, the sum `W` of all weights rounded to a whole number. On a line where
samples lie one after the other, each as long as its weight, entry `k` stands for the sample at
`(k + offset) · W / N`; `offset`, in [0, 1), is drawn anew each epoch. So a sample of weight `w` has
`w · N / W` entries on average, in each epoch that number rounded down or up, and the number of all
entries never changes. (Carpenter, Clifford and Fearnhead, 1999: "Improved particle filter for
nonlinear problems".)
"""

from collections.abc import Sequence

import numpy as np


class Occurrences:
    """Entries of the samples of shards, whose `weights` are one array (samples,) a shard."""

    def __init__(self, weights: Sequence[np.ndarray]) -> None:
        self._weights = weights
        self._ends = _ends(weights)
        self.num_entries = epoch_size(weights)
        self._scale = self._ends[-1] / self.num_entries  # length of the line that an entry has

    def shard_sizes(self, offset: float) -> np.ndarray:
        """Return the number of entries of each shard in an epoch with that offset, (shards,)."""
        return np.diff(self._entries_before(offset))

    def samples(self, shard: int, offset: float) -> np.ndarray:
        """Return the sample of each entry of a shard, by its number in the shard, (entries,).

        Every sample comes, in their order, before one comes again: so that repetitions are
        apart, and each time around is a nearly sequential read.
        """
        first, end = self._entries_before(offset)[shard : shard + 2]
        begin = self._ends[shard - 1] if shard else 0.0
        points = (np.arange(first, end) + offset) * self._scale - begin
        ends = np.cumsum(self._weights[shard], dtype=np.float64)
        # Where rounding moves a point over an end, it is the last sample's.
        found = np.searchsorted(ends, points, side="right").clip(max=len(ends) - 1)
        again = np.arange(len(found)) - np.searchsorted(found, found)
        return found[np.argsort(again, kind="stable")]

    def _entries_before(self, offset: float) -> np.ndarray:
        """Return the number of entries before each shard, and of all, (shards + 1,)."""
        ends = np.ceil(self._ends / self._scale - offset).astype(np.int64)
        ends[-1] = self.num_entries
        return np.concatenate([[0], ends.clip(0, self.num_entries)])


def epoch_size(weights: Sequence[np.ndarray]) -> int:
    """Return the number of entries of an epoch: the sum of all weights, rounded, at least 1."""
    return max(1, round(_ends(weights)[-1]))


def _ends(weights: Sequence[np.ndarray]) -> np.ndarray:
    """Return where each shard ends on the line, (shards,)."""
    # Not by np.sum, whose order of additions, and so the last bit, depends on the processor.
    return np.cumsum([np.cumsum(of_shard, dtype=np.float64)[-1] for of_shard in weights])
