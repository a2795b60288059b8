"""Reading of samples by number, from local or remote shards, in as few reads as possible."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, groupby

from xmodal.data.manifest import Manifest, Shard
from xmodal.data.recent import Recent
from xmodal.data.samples import COMES_TWICE, EXTENSIONS, RawSample, doubt_of_size
from xmodal.data.shard_index import ShardIndex
from xmodal.data.tar import Sample
from xmodal.data.tar_headers import BLOCK, is_header_of
from xmodal.errors import UserError

# Bytes between two files that are read too rather than skipped: less than a request costs.
_GAP_NEAR, _GAP_FAR = 1 << 14, 1 << 20
# Bytes before a file that are read with it: its header, and the long name before that.
_HEADERS = 2 * BLOCK

Interval = tuple[int, int]
# Of each shard its index, and which of its samples have the key of an earlier one.
Indices = Recent[tuple[ShardIndex, frozenset[int]]]
# Of the shards that were read last, by all readers of a process: more than the lanes of a run.
RECENT_INDICES: Indices = Recent(512)


class SampleReader:
    """Reads the samples of a manifest, which are numbered in its order, at their byte offsets.

    `indices` keeps those of shards that were read last.
    """

    def __init__(self, manifest: Manifest, indices: Indices = RECENT_INDICES) -> None:
        self.manifest, self.indices = manifest, indices
        self.storage = manifest.storage
        self._gap = _GAP_FAR if manifest.storage.far else _GAP_NEAR
        self._ends = list(accumulate(shard.num_samples for shard in manifest.shards))
        # Shards where headers and index differ, and yet the index is right, by their numbers.
        self._examined: dict[int, bool] = {}

    def __len__(self) -> int:
        return self._ends[-1]

    def numbers_of(self, shard: int) -> range:
        """Return the numbers of the samples of the manifest's shard `shard`."""
        return range(self._ends[shard - 1] if shard else 0, self._ends[shard])

    def locate(self, number: int) -> tuple[Shard, Sample]:
        """Return the shard and the members of sample `number`."""
        shard = bisect_right(self._ends, number)
        start = self.numbers_of(shard).start
        return self.manifest.shards[shard], self._index(shard)[0][number - start]

    def __getitem__(self, number: int) -> RawSample:
        return self.load([number])[0]

    def load(
        self, numbers: Sequence[int], extensions: Iterable[str] | None = None
    ) -> list[RawSample]:
        """Return samples in the given order; with `extensions`, only those files of them.

        Files near each other are read together. Raises `UserError` when a shard cannot
        be read.
        """
        wanted = EXTENSIONS if extensions is None else EXTENSIONS.intersection(extensions)
        found: dict[int, RawSample] = {}
        for shard, members in self._by_shard(numbers):
            found.update(self._load_shard(shard, members, wanted))
        return [found[number] for number in numbers]

    def will_load(self, numbers: Sequence[int]) -> None:
        """Announce that samples, mostly adjacent ones, are loaded soon."""
        for shard, members in self._by_shard(numbers):
            start, index = self.numbers_of(shard).start, self._index(shard)[0]
            first, last = (index[number - start].members for number in (members[0], members[-1]))
            begin = min(offset for offset, _ in first.values())
            end = max(offset + size for offset, size in last.values())
            self.storage.will_read(self.manifest.shards[shard].url, begin, end)

    def _index(self, shard: int) -> tuple[ShardIndex, frozenset[int]]:
        """Return the index of a shard, and which of its samples have the key of an earlier one."""

        def read() -> tuple[ShardIndex, frozenset[int]]:
            index = self.manifest.index(self.manifest.shards[shard])
            return index, index.repeats()

        return self.indices.get(self, shard, read)

    def _by_shard(self, numbers: Sequence[int]) -> list[tuple[int, list[int]]]:
        """Return the shards that samples are in, each with the numbers of its samples in order."""
        shards = groupby(sorted(set(numbers)), key=lambda n: bisect_right(self._ends, n))
        return [(shard, list(members)) for shard, members in shards]

    def _load_shard(
        self, shard: int, numbers: Sequence[int], wanted: frozenset[str]
    ) -> Iterator[tuple[int, RawSample]]:
        url = self.manifest.shards[shard].url
        start = self.numbers_of(shard).start
        index, repeats = self._index(shard)
        samples = [index[number - start] for number in numbers]
        end = self.manifest.shards[shard].num_bytes
        bounded = [_bounded(one.members, wanted, end) for one in samples]
        read = self._read(shard, [place for places, _ in bounded for place in places.values()])
        for number, sample, (places, doubt) in zip(numbers, samples, bounded, strict=True):
            doubt = COMES_TWICE if number - start in repeats else doubt
            # Arrays stay where they are; all else needs bytes of its own.
            files: dict[str, bytes | memoryview | None] = {}
            for extension, place in places.items():
                header, data = read[place]
                if header and not is_header_of(header, f"{sample.key}.{extension}", place[1]):
                    doubt = doubt or self._examine(shard)
                is_kept = data is None or extension.endswith("npy")
                files[extension] = data if is_kept else bytes(data or b"")
            yield number, RawSample(url, sample.key, files, doubt, places, number)

    def _examine(self, shard: int) -> str | None:
        """Find out, once, what a header means that is not that of the file in the index.

        Return the fault of the sample; nothing where the header is only unusual. Raises
        `UserError` where the tar is not the one that was indexed.
        """
        if shard not in self._examined:
            self._examined[shard] = self.manifest.holds_index(self.manifest.shards[shard])
        return None if self._examined[shard] else "its header in the tar is broken"

    def _read(
        self, shard: int, places: Sequence[Interval]
    ) -> dict[Interval, tuple[memoryview | None, memoryview | None]]:
        """Return the headers before each (offset, size) of a shard, and the bytes there.

        The bytes are None where the shard ends before; so are headers of files without bytes, which
        are not worth a read.
        """
        url, end = self.manifest.shards[shard].url, self.manifest.shards[shard].num_bytes
        read: dict[Interval, tuple[memoryview | None, memoryview | None]] = {}
        for first, last, inside in _merged(places, self._gap):
            stop = min(last, end)
            try:
                data = self.storage.read(url, first, stop) if stop > first else b""
            except FileNotFoundError:
                raise UserError(
                    f"shard {url} cannot be read: the file is missing; restore it"
                ) from None
            view = memoryview(data)
            for offset, size in inside:
                at = offset - first
                header = view[max(at - _HEADERS, 0) : at] if size else None
                piece = view[at : at + size]
                whole = len(piece) == size
                read[offset, size] = header if whole else None, piece if whole else None
        return read


def _bounded(
    members: Mapping[str, Interval], wanted: frozenset[str], end: int
) -> tuple[dict[str, Interval], str | None]:
    """Return the wanted members of a sample, none where they are too large, and then why.

    What reaches past the `end` of the shard, as a damaged index may say, is not there to be read.
    """
    found = {extension: place for extension, place in members.items() if extension in wanted}
    doubt = doubt_of_size(min(size, end - at) for at, size in found.values() if at < end)
    return ({}, doubt) if doubt else (found, None)


def _merged(places: Sequence[Interval], gap: int) -> Iterator[tuple[int, int, list[Interval]]]:
    """Yield the stretches, first byte and end, that hold all (offset, size) and the headers before
    them, with what each holds.

    Places that lie at most `gap` bytes apart are in one stretch.
    """
    inside: list[Interval] = []
    first = last = 0
    for offset, size in sorted(places):
        begin = max(offset - _HEADERS, 0) if size else offset
        if inside and begin > last + gap:
            yield first, last, inside
            inside = []
        if not inside:
            first = last = begin
        inside.append((offset, size))
        last = max(last, offset + size)
    if inside:
        yield first, last, inside
