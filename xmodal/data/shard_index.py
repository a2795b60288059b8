"""The `.idx` beside a tar: where the files of each sample lie, as DALI's `wds2idx` writes it."""

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from xmodal.data.storage import Storage, open_storage, split_url
from xmodal.data.tar import Sample, key_and_extension, named_samples
from xmodal.errors import UserError

# A file in an .idx line. Its name ends in its extension, which finds the end of names with spaces.
_INDEX_ENTRY = re.compile(r"(.+?) (\d+) (\d+) (.*?\.\1)(?: |$)")
_INDEX_HEADER = re.compile(r"v1\.[0-2] (\d+)")


class ShardIndex(Sequence[Sample]):
    """The samples of a shard in the order of its tar.

    What is held is small, for there are as many of these in memory as a run has lanes: arrays of
    offsets and sizes where all samples have the same extensions, else the lines of the `.idx`.
    """

    def __init__(self, text: bytes, path: str) -> None:
        self.path, self.digest = path, digest_of(text)
        header, _, body = text.removesuffix(b"\n").partition(b"\n")
        self._count = body.count(b"\n") + 1 if body else 0
        if _header_count(header.decode("utf-8", "replace"), path) != self._count:
            raise UserError(f"{path} is cut: {how_to_index(split_url(path)[0])}")
        self._table = _Table.of(body, self._count)
        self._lines = body.split(b"\n") if self._table is None else []

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number):  # type: ignore[no-untyped-def]
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        if not 0 <= number < len(self):
            raise IndexError(number)
        if self._table is not None:
            return self._table.sample(number)
        return _read_sample(self._lines[number].decode("utf-8", "surrogateescape"), self.path)

    def repeats(self) -> frozenset[int]:
        """Return the numbers of the samples whose key an earlier sample of the shard has."""
        table = self._table
        keys: Sequence[bytes | str] = [one.key for one in self] if table is None else table.names
        if len(set(keys)) == len(keys):
            return frozenset()
        first: dict[bytes | str, int] = {}
        return frozenset(n for n, key in enumerate(keys) if first.setdefault(key, n) != n)


class _Table(NamedTuple):
    """An index whose samples have the same extensions, and no spaces in their names."""

    extensions: list[str]
    names: list[bytes]  # of each sample's first file
    places: list[tuple[tuple[int, int], ...]]  # of each sample's files, offset and size

    @classmethod
    def of(cls, body: bytes, count: int) -> "_Table | None":
        words = body.replace(b"\n", b" ").split(b" ")
        width = len(words) // max(count, 1)
        if not count or width % 4 or len(words) != width * count or b"" in words:
            return None
        extensions = words[:width:4]
        columns = [words[at::width] for at in range(width)]
        # Names with spaces, or of other extensions, move words out of their columns.
        if any(columns[4 * n] != [one] * count for n, one in enumerate(extensions)):
            return None
        if not all(name.endswith(b"." + extensions[0]) for name in columns[3]):
            return None
        try:
            files = [
                zip(map(int, columns[at + 1]), map(int, columns[at + 2]), strict=True)
                for at in range(0, width, 4)
            ]
            places = list(zip(*files, strict=True))
        except ValueError:
            return None
        # Hidden and meta files are no part of samples, and have no business here.
        joined = b"\n" + b"\n".join(columns[3])
        if b"__" in joined or b"/." in joined or b"\n." in joined:
            return None
        lower = [one.decode("utf-8", "surrogateescape").lower() for one in extensions]
        return cls(lower, columns[3], places)

    def sample(self, number: int) -> Sample:
        name = self.names[number].decode("utf-8", "surrogateescape")
        folder, slash, base = name.rpartition("/")
        members = dict(zip(self.extensions, self.places[number], strict=True))
        return Sample(folder + slash + base.partition(".")[0], members)


def read_index(tar: str | Path, storage: Storage | None = None) -> ShardIndex:
    """Read the `.idx` of a tar; raises `UserError` when it is missing or damaged."""
    path = index_path(tar)
    try:
        text = (storage or open_storage(path)).read(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {how_to_index(split_url(path)[0])}") from None
    return ShardIndex(text, path)


def index_path(tar: str | Path) -> str:
    """Where the index of a tar lies: `a/b.tar` has `a/b.idx`."""
    return str(tar).removesuffix(".tar") + ".idx"


@dataclass(frozen=True)
class Indexed:
    """What an index was made of: its samples, and what of the tar is not in it or doubtful."""

    num_samples: int
    broken: str | None  # why the tar could not be read to its end
    repeated: tuple[str, ...]  # keys that several samples have


def write_index(tar: str | Path, storage: Storage | None = None) -> Indexed:
    """Write the `.idx` of a tar beside it, of all whole samples before the first break in it."""
    url, broken = str(tar), None
    storage = storage or open_storage(url)
    scanned: list[tuple[Sample, list[str]]] = []
    try:
        scanned.extend(named_samples(url, storage))
    except UserError as error:
        broken = str(error)
    write_index_of(url, scanned, storage)
    keys = [sample.key for sample, _ in scanned]
    repeated = tuple(dict.fromkeys(key for key in _again(keys)))
    return Indexed(len(scanned), broken, repeated)


def write_index_of(
    tar: str | Path, samples: Iterable[tuple[Sample, Sequence[str]]], storage: Storage
) -> None:
    """Write the `.idx` of a tar whose samples, and their files' names, are known."""
    lines = []
    for sample, names in samples:
        entries = zip(names, sample.members.values(), strict=True)
        lines.append(" ".join(_index_entry(name, *place) for name, place in entries))
    text = "\n".join([f"v1.2 {len(lines)}", *lines]) + "\n"
    storage.write(index_path(tar), text.encode("utf-8", "surrogateescape"))


def _again(keys: Iterable[str]) -> Iterator[str]:
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            yield key
        seen.add(key)


def _index_entry(name: str, offset: int, size: int) -> str:
    extension = name.rsplit("/", 1)[-1].split(".", 1)[1]
    return f"{extension} {offset} {size} {name}"


def _read_sample(line: str, path: str) -> Sample:
    words = line.split(" ")
    # What has four words a file and names that end as they should has no spaces in names.
    names, extensions = words[3::4], words[::4]
    if len(words) % 4 or "" in words or not all(map(str.endswith, names, extensions)):
        return _read_spaced_sample(line, path)
    split = key_and_extension(names[0])
    try:
        places = zip(map(int, words[1::4]), map(int, words[2::4]), strict=True)
        members = dict(zip(map(str.lower, extensions), places, strict=True))
    except ValueError:
        split = None
    if split is None:
        raise _no_sample(path)
    return Sample(split[0], members)


def _read_spaced_sample(line: str, path: str) -> Sample:
    entries = list(_INDEX_ENTRY.finditer(line))
    split = key_and_extension(entries[0][4]) if entries else None
    if split is None or "".join(entry[0] for entry in entries) != line:
        raise _no_sample(path)
    return Sample(split[0], {e[1].lower(): (int(e[2]), int(e[3])) for e in entries})


def _no_sample(path: str) -> UserError:
    return UserError(f"{path} has a line that is no sample: {how_to_index(split_url(path)[0])}")


def _header_count(line: str, path: str) -> int:
    match = _INDEX_HEADER.fullmatch(line)
    if match is None:
        raise UserError(f"{path} is no index of a tar: {how_to_index(split_url(path)[0])}")
    return int(match[1])


def digest_of(data: bytes) -> str:
    """Return a digest of 128 bits, as hexadecimal digits."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def how_to_index(folder: str) -> str:
    """Return what a person can do where an index is missing or wrong."""
    return f"run `python -m shards index {folder}`"
