"""Stream of samples at positions of the plan, with read-ahead per lane."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from xmodal.data.mixture import Mixture, Place
from xmodal.data.reader import SampleReader
from xmodal.data.samples import RawSample

_THREADS = 16  # reads at a time: more than a connection to a bucket can do one after the other

Samples = list[RawSample | None]


class Stream:
    """Reads the samples at a mixture's positions; `readers` has one reader per data set.

    Each lane keeps a block in memory, freed as it is used, and from its middle on the next one.
    Remote blocks are read ahead in threads; for local ones the operating system is advised to read
    ahead.
    """

    def __init__(self, readers: Sequence[SampleReader], mixture: Mixture) -> None:
        self.readers, self.mixture = readers, mixture
        self.waited: defaultdict[str, float] = defaultdict(float)  # seconds, by shard
        self.threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="read-ahead")

    def samples(self, positions: Iterable[int], stop: int) -> Iterator[tuple[int, RawSample]]:
        """Yield (origin, sample) for positions in rising order, all before `stop`; see `Stretch`.

        They must include every position of their lanes from the first one on.
        """
        count = self.mixture.lanes
        lanes: dict[int, _Lane] = {}
        positions = iter(positions)
        first: list[int] = []  # one a lane: their blocks are asked for before any is waited for
        for position in positions:
            if position % count in lanes:
                break
            lanes[position % count] = _Lane(self, position, stop)
            first.append(position)
        else:
            position = stop
        for each in first:
            yield lanes[each % count].take()
        while position < stop:
            yield lanes[position % count].take()
            position = next(positions, stop)

    def load(self, place: Place) -> RawSample:
        """Return a sample out of order: the neighbour of an unusable one."""
        return self.readers[place.data_set][place.sample]

    def close(self) -> None:
        """Cancel reads in progress."""
        self.threads.shutdown(wait=False, cancel_futures=True)


class _Lane:
    """The samples of a lane from a position on, a block after the other."""

    def __init__(self, stream: Stream, position: int, stop: int) -> None:
        self.stream, self.position, self.stop = stream, position, stop
        self.samples: Samples = []
        self.origins: list[int] = []
        self.at = 0
        self.next_origins: list[int] = []
        self.next = self._begin()

    def take(self) -> tuple[int, RawSample]:
        """Return the lane's next sample, with its origin before it."""
        if self.at == len(self.samples):
            self._turn()
        sample, self.samples[self.at] = self.samples[self.at], None
        origin = self.origins[self.at]
        self.at += 1
        if self.at == (len(self.samples) + 1) // 2 and self.position < self.stop:
            self.next = self._begin()
        assert sample is not None
        return origin, sample

    def _turn(self) -> None:
        begun = time.perf_counter()
        self.samples, self.origins, self.at = self.next(), self.next_origins, 0
        assert self.samples[0] is not None
        self.stream.waited[self.samples[0].shard] += time.perf_counter() - begun

    def _begin(self) -> Callable[[], Samples]:
        """Start reading the block at the lane's position; return a function that returns it."""
        mixture = self.stream.mixture
        data_set, origins, samples = mixture.stretch_from(self.position)
        reader, numbers = self.stream.readers[data_set], samples.tolist()
        self.next_origins = origins.tolist()
        self.position += len(numbers) * mixture.lanes

        def load() -> Samples:
            return list(reader.load(numbers))

        if not reader.storage.far:
            reader.will_load(numbers)
            return load
        loading: Future[Samples] = self.stream.threads.submit(load)
        return loading.result
