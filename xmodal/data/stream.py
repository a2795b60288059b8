"""Samples at positions of the plan, one after the other, their blocks read ahead in threads."""

import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from xmodal.data.mixture import Mixture, Place
from xmodal.data.plan import Block
from xmodal.data.reader import SampleReader
from xmodal.data.samples import RawSample

_THREADS = 16  # reads at a time: more than a connection to a bucket can do one after the other
_LEAST_AHEAD = 32  # positions

Key = tuple[int, Block]


@dataclass
class _Loading:
    """A block on its way: its samples from `first` on, each let go when it is taken."""

    first: int
    samples: "Future[list[RawSample | None]]"


class _Coming(NamedTuple):
    """A position whose block is asked for."""

    position: int
    key: Key
    place: int  # in the block


class Stream:
    """Reads what a mixture's positions hold; `readers` has one reader a data set.

    Read ahead is half a block of each lane, so memory is that of about one block a lane.
    """

    def __init__(self, readers: Sequence[SampleReader], mixture: Mixture) -> None:
        self.readers, self.mixture = readers, mixture
        self.waited: defaultdict[str, float] = defaultdict(float)  # seconds, by shard
        self._loading: dict[Key, _Loading] = {}
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="read-ahead")

    def samples(self, positions: Iterable[int], lanes: int) -> Iterator[tuple[int, RawSample]]:
        """Yield (position, sample) of positions in rising order, that lie in so many lanes."""
        window = max(plan.window for plan in self.mixture.plans)
        ahead = max(_LEAST_AHEAD, lanes * window // 2)
        left = iter(positions)
        queue = deque(self._ask(position) for position in islice(left, ahead))
        while queue:
            position = next(left, None)
            if position is not None:
                queue.append(self._ask(position))
            coming = queue.popleft()
            yield coming.position, self._take(coming)

    def load(self, place: Place) -> RawSample:
        """Return a sample out of turn: the neighbour of one that cannot be used."""
        return self.readers[place.data_set][place.sample]

    def close(self) -> None:
        """Give up what is being read."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _ask(self, position: int) -> _Coming:
        data_set, own = self.mixture.own_position(position)
        block, index = self.mixture.plans[data_set].block_at(own)
        key = (data_set, block)
        if key not in self._loading:
            samples = self._threads.submit(self._load_block, key, index)
            self._loading[key] = _Loading(index, samples)
        return _Coming(position, key, index)

    def _load_block(self, key: Key, first: int) -> list[RawSample | None]:
        data_set, block = key
        numbers = self.mixture.plans[data_set].samples_of(block)[first:]
        return list(self.readers[data_set].load(numbers.tolist()))

    def _take(self, coming: _Coming) -> RawSample:
        loading, block = self._loading[coming.key], coming.key[1]
        begun = time.perf_counter()
        samples, place = loading.samples.result(), coming.place - loading.first
        sample, samples[place] = samples[place], None
        assert sample is not None
        self.waited[sample.shard] += time.perf_counter() - begun
        if coming.place == block.stop - block.start - 1:
            del self._loading[coming.key]
        return sample
