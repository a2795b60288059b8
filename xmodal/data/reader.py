"""Samples by their numbers, from wherever their shards lie, in as few reads as it takes."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, groupby

from xmodal.data.manifest import Manifest, Sample, Shard, ShardIndex
from xmodal.data.samples import RawSample
from xmodal.data.storage import is_remote
from xmodal.errors import UserError

# Bytes between two files that are read too rather than skipped: less than a request costs.
_GAP_ON_DISK, _GAP_IN_BUCKETS = 1 << 14, 1 << 20
_INDICES = 512  # of shards, kept in memory: more than the lanes of a run

Interval = tuple[int, int]


class SampleReader:
    """Reads the samples of a manifest, which are numbered in its order, at their byte offsets."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.storage = manifest.storage
        self._gap = _GAP_IN_BUCKETS if is_remote(manifest.url) else _GAP_ON_DISK
        self._ends = list(accumulate(shard.num_samples for shard in manifest.shards))
        # No reference to the reader itself, which would keep it and its open files from going.
        self._index = lru_cache(maxsize=_INDICES)(lambda shard: _read_index(manifest, shard))

    def __len__(self) -> int:
        return self._ends[-1]

    def locate(self, number: int) -> tuple[Shard, Sample]:
        """Return the shard and the members of sample `number`."""
        shard = bisect_right(self._ends, number)
        start = self._ends[shard - 1] if shard else 0
        return self.manifest.shards[shard], self._index(shard)[0][number - start]

    def __getitem__(self, number: int) -> RawSample:
        return self.load([number])[0]

    def load(
        self, numbers: Sequence[int], extensions: Iterable[str] | None = None
    ) -> list[RawSample]:
        """Return samples in the order asked for; with `extensions`, those files of them alone.

        Files that lie near each other are read together. Raises `UserError` when a shard cannot
        be read.
        """
        wanted = None if extensions is None else frozenset(extensions)
        found: dict[int, RawSample] = {}
        by_shard = groupby(sorted(set(numbers)), key=lambda n: bisect_right(self._ends, n))
        for shard, members in by_shard:
            found.update(self._load_shard(shard, list(members), wanted))
        return [found[number] for number in numbers]

    def _load_shard(
        self, shard: int, numbers: Sequence[int], wanted: frozenset[str] | None
    ) -> Iterator[tuple[int, RawSample]]:
        url = self.manifest.shards[shard].url
        start = self._ends[shard - 1] if shard else 0
        index, repeats = self._index(shard)
        samples = [index[number - start] for number in numbers]
        members = [
            {ext: place for ext, place in one.members.items() if wanted is None or ext in wanted}
            for one in samples
        ]
        read = self._read(shard, [place for one in members for place in one.values()])
        for number, sample, places in zip(numbers, samples, members, strict=True):
            files = {extension: read[place] for extension, place in places.items()}
            doubt = "key comes twice in its shard" if number - start in repeats else None
            yield number, RawSample(url, sample.key, files, doubt)

    def _read(self, shard: int, places: Sequence[Interval]) -> dict[Interval, bytes | None]:
        """Return the bytes at each (offset, size) of a shard, None where the shard ends before."""
        url, end = self.manifest.shards[shard].url, self.manifest.shards[shard].num_bytes
        read: dict[Interval, bytes | None] = {}
        for first, last, inside in _merged(places, self._gap):
            stop = min(last, end)  # a damaged index may say anything
            try:
                data = self.storage.read(url, first, stop) if stop > first else b""
            except FileNotFoundError:
                raise UserError(f"shard {url} cannot be read: there is no such file") from None
            for offset, size in inside:
                piece = data[offset - first : offset - first + size]
                read[offset, size] = piece if len(piece) == size else None
        return read


def _read_index(manifest: Manifest, shard: int) -> tuple[ShardIndex, frozenset[int]]:
    index = manifest.index(manifest.shards[shard])
    return index, index.repeats()


def _merged(places: Sequence[Interval], gap: int) -> Iterator[tuple[int, int, list[Interval]]]:
    """Yield the stretches, first byte and end, that hold all (offset, size), with what each holds.

    Places that lie at most `gap` bytes apart are in one stretch.
    """
    inside: list[Interval] = []
    first = last = 0
    for offset, size in sorted(places):
        if inside and offset > last + gap:
            yield first, last, inside
            inside = []
        if not inside:
            first = last = offset
        inside.append((offset, size))
        last = max(last, offset + size)
    if inside:
        yield first, last, inside
