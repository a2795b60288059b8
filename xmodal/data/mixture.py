"""Mixture of data sets in one order: each has its own endless plan and a share of the lanes.

Of the `lanes` positions in a row, every data set has a fixed number, at fixed places. So any
stretch of that length is mixed by the weights, every lane stays a nearly sequential read of one
data set, and the sample at a position does not depend on the number of ranks or workers. With one
data set, the mixture is its plan.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from xmodal.data.length_buckets import LengthBuckets
from xmodal.data.plan import Plan
from xmodal.errors import UserError


class Place(NamedTuple):
    """A sample, by the numbers of its data set and of itself."""

    data_set: int
    sample: int


class Stretch(NamedTuple):
    """Entries that come one after the other in a lane: `samples` of a data set with their origins.

    An origin is the position of an entry without length buckets, by which all that is random for it
    is drawn.
    """

    data_set: int
    origins: np.ndarray  # (entries,) int64
    samples: np.ndarray  # (entries,) int64


class Mixture:
    """The endless order of data sets with `weights`, given their shards' sizes, and of each set the
    weights of its samples; see `Plan`. `buckets` changes the order within each block of a lane.
    """

    def __init__(
        self,
        sizes: Sequence[Sequence[int]],
        weights: Sequence[float],
        *,
        seed: int,
        lanes: int,
        window: int,
        sample_weights: Sequence[Sequence[np.ndarray] | None] = (),
        buckets: LengthBuckets | None = None,
    ) -> None:
        self.lanes, self.buckets = lanes, buckets
        self.counts = share_lanes(weights, lanes)
        of_samples = sample_weights or [None] * len(sizes)
        self.plans = [
            Plan(
                sizes[number],
                seed=seed,
                lanes=count,
                window=window,
                data_set=number,
                sample_weights=of_samples[number],
            )
            for number, count in enumerate(self.counts)
        ]
        # Lanes of a set lie side by side: ranks take every so-manieth, and so equally many of each.
        self._owners = [(d, index) for d, count in enumerate(self.counts) for index in range(count)]

    def own_position(self, position: int) -> tuple[int, int]:
        """Return the data set that a position belongs to, and the position in its own plan."""
        cycle, lane = divmod(position, self.lanes)
        data_set, index = self._owners[lane]
        return data_set, cycle * self.counts[data_set] + index

    def sample_at(self, position: int) -> Place:
        """Return the sample at a position."""
        stretch = self.stretch_from(position)
        return Place(stretch.data_set, int(stretch.samples[0]))

    def stretch_from(self, position: int) -> Stretch:
        """Return what comes in the lane of a position, from there to the end of its block."""
        data_set, own = self.own_position(position)
        plan = self.plans[data_set]
        block, first = plan.block_at(own)
        samples = plan.samples_of(block)
        origins = position + self.lanes * np.arange(-first, len(samples) - first)
        if self.buckets:
            order = self.buckets.order(data_set, origins, samples)
            origins, samples = origins[order], samples[order]
        return Stretch(data_set, origins[first:], samples[first:])

    def neighbours(self, position: int, reach: int) -> list[Place]:
        """Return the samples, nearest first, that may replace an unreadable one whose origin is
        `position`; see `Plan.neighbours`.
        """
        data_set, own = self.own_position(position)
        plan = self.plans[data_set]
        return [Place(data_set, plan.sample_at(near)) for near in plan.neighbours(own, reach)]


def share_lanes(weights: Sequence[float], lanes: int) -> list[int]:
    """Distribute lanes by weights, each count as near to its share as whole numbers allow.

    Raises `UserError` for a weight of less than half a lane.
    """
    total = sum(weights)
    exact = [weight / total * lanes for weight in weights]
    smallest = min(range(len(weights)), key=lambda number: weights[number])
    if exact[smallest] < 0.5:
        needed = -(-total // (2 * weights[smallest])) if weights[smallest] else 0
        raise UserError(
            f"data.train.{smallest}: weight {weights[smallest]:g} of {total:g} is less than half "
            f"of one of {lanes} lanes; remove it, or set data.lanes to {needed:.0f} or more"
        )
    counts = [max(1, int(share)) for share in exact]
    while sum(counts) != lanes:
        step = 1 if sum(counts) < lanes else -1
        movable = [n for n, count in enumerate(counts) if count + step > 0]
        counts[max(movable, key=lambda n: step * (exact[n] - counts[n]))] += step
    return counts
