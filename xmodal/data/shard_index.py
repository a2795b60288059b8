"""Index of a tar, the `.idx` beside it: places of the files of each sample, in DALI's format."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from xmodal.data.digests import NO_DIGESTS, Digests, digest_of, sha256_of
from xmodal.data.storage import Storage, open_storage, split_url
from xmodal.data.tar import BrokenShard, Sample, Tally, grouped, key_and_extension, scan_tar
from xmodal.data.tar_headers import BLOCK
from xmodal.errors import UserError

# A file in an .idx line. Its name ends in its extension, which finds the end of names with spaces.
_INDEX_ENTRY = re.compile(r"(.+?) ([0-9]{1,18}) ([0-9]{1,18}) (.*?\.\1)(?: |$)")
_IMAGES = frozenset(("jpg", "jpeg", "png", "webp"))
_ROLES = frozenset(("source", "target"))  # what may stand before an image's extension
NO_NAME_OF_INDEX = (
    "an index cannot hold its name (line breaks, or numbers between spaces): rename its files"
)
_UNREADABLE = (
    "samples are skipped, for an index cannot hold their names (line breaks, or numbers between "
    "spaces): rename their files"
)
_DOTTED = (
    "samples have files whose name has a dot before the extension; a key ends at its first dot, so "
    "files of several samples may be one: write another character in place of that dot"
)
_REPEATED = "keys come twice, the later samples count as bad"
# The key in a line whose first file has no space in its name.
_FIRST_KEY = re.compile(
    rb"^([^ \n]+) [0-9]+ [0-9]+ ((?:[^ \n]*/)?[^ ./\n]*)\.(?:[^ \n]*\.)?\1(?= |$)", re.MULTILINE
)
_INDEX_HEADER = re.compile(r"v1\.[0-2] ([0-9]{1,15})")


class ShardIndex(Sequence[Sample]):
    """Samples of a shard in the order of its tar.

    It is kept small, since a run has as many of them in memory as lanes: arrays of offsets and
    sizes if all samples have the same extensions, else the lines of the `.idx`.
    """

    def __init__(self, text: bytes, path: str, num_bytes: int | None = None) -> None:
        """Read an index, of a tar of `num_bytes` if known.

        Raises `UserError` if it is damaged, or if files overlap or lie outside the tar.
        """
        self.path, self.digest = path, digest_of(text)
        header, _, body = text.removesuffix(b"\n").partition(b"\n")
        self._count = body.count(b"\n") + 1 if body else 0
        if _header_count(header.decode("utf-8", "replace"), path) != self._count:
            raise UserError(f"{path} is truncated: {how_to_index(split_url(path)[0])}")
        self._table = _Table.of(body, self._count)
        self._lines = body.split(b"\n") if self._table is None and body else []
        self._check_places(num_bytes)

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

    def _check_places(self, num_bytes: int | None) -> None:
        """Raise `UserError` for places no tar has: a few lines could ask for any amount of memory.

        A header stands right before each file.
        """
        samples = self._table.places if self._table else (one.members.values() for one in self)
        end = 0
        for offset, size in sorted(place for one in samples for place in one):
            if offset < end + BLOCK or size < 0:
                raise UserError(f"{self.path} has files that share bytes: {self._remedy()}")
            end = offset + size
        if num_bytes is not None and end > num_bytes:
            raise UserError(
                f"{self.path} is of another tar, for a file in it ends at byte {end:,} of "
                f"{num_bytes:,}: {self._remedy()}"
            )

    def _remedy(self) -> str:
        return how_to_index(split_url(self.path)[0])

    def only(self, numbers: Sequence[int]) -> "ShardIndex":
        """Return the index of some of the samples, by their rising numbers."""
        part = copy(self)
        part._count = len(numbers)
        part._lines = [self._lines[number] for number in numbers] if self._lines else []
        part._table = self._table and self._table.only(numbers)
        return part

    def keys(self) -> list[bytes]:
        """Return the keys of the samples."""
        if self._table is None:
            return [one.key.encode("utf-8", "surrogateescape") for one in self]
        return [name[: name.index(b".", name.rfind(b"/") + 1)] for name in self._table.names]

    def repeats(self) -> frozenset[int]:
        """Return the numbers of samples that repeat the key of an earlier sample."""
        keys = self.keys()
        if len(set(keys)) == len(keys):
            return frozenset()
        first: dict[bytes, int] = {}
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
        if any(line.count(b" ") != width - 1 for line in body.split(b"\n")):
            return None
        extensions = words[:width:4]
        columns = [words[at::width] for at in range(width)]
        # Names with spaces, or of other extensions, move words out of their columns.
        for at, extension in enumerate(extensions):
            if columns[4 * at] != [extension] * count:
                return None
            if not all(name.endswith(b"." + extension) for name in columns[4 * at + 3]):
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
        return cls(lower, columns[3], places) if len(set(lower)) == len(lower) else None

    def only(self, numbers: Sequence[int]) -> "_Table":
        names, places = [self.names[n] for n in numbers], [self.places[n] for n in numbers]
        return _Table(self.extensions, names, places)

    def sample(self, number: int) -> Sample:
        name = self.names[number].decode("utf-8", "surrogateescape")
        folder, slash, base = name.rpartition("/")
        members = dict(zip(self.extensions, self.places[number], strict=True))
        return Sample(folder + slash + base.partition(".")[0], members)


def read_index(
    tar: str | Path, storage: Storage | None = None, num_bytes: int | None = None
) -> ShardIndex:
    """Read the `.idx` of a tar, of `num_bytes` if known.

    Raises `UserError` if it is missing or damaged.
    """
    return ShardIndex(_read_text(tar, storage), index_path(tar), num_bytes)


def read_keys(tar: str, storage: Storage) -> list[bytes]:
    """Return the keys of a tar's samples, several times faster than its whole index is read.

    Raises `UserError` if its `.idx` is missing or damaged.
    """
    text, path = _read_text(tar, storage), index_path(tar)
    found = _FIRST_KEY.findall(text)
    header = text.partition(b"\n")[0].decode("utf-8", "replace")
    if len(found) != _header_count(header, path):
        return ShardIndex(text, path).keys()
    return [key for _, key in found]


def _read_text(tar: str | Path, storage: Storage | None) -> bytes:
    path = index_path(tar)
    try:
        return (storage or open_storage(path)).read(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {how_to_index(split_url(path)[0])}") from None


def index_path(tar: str | Path) -> str:
    """Return the path of a tar's index: `a/b.idx` for `a/b.tar`."""
    return str(tar).removesuffix(".tar") + ".idx"


@dataclass(frozen=True)
class Indexed:
    """Result of indexing a tar: number of samples, and files that were skipped or are doubtful."""

    num_samples: int
    fault: str | None  # why the tar could not be read, or not to its end
    doubts: Tally
    digests: Digests = NO_DIGESTS


def write_index(
    tar: str | Path, storage: Storage | None = None, *, content: bool = False
) -> Indexed:
    """Write the `.idx` beside a tar, of all complete samples before the first break.

    With `content`, compute the tar's digest too. Write no index if the tar cannot be read or has no
    sample.
    """
    url, fault = str(tar), None
    storage = storage or open_storage(url)
    samples: list[tuple[Sample, list[str]]] = []
    try:
        with scan_tar(url, storage) as scan:
            try:
                samples.extend(grouped(scan))
                fault = scan.beyond
            except BrokenShard as error:
                fault = str(error)
        if not samples:
            return Indexed(0, fault, scan.skipped)
        index, doubts = write_index_of(url, samples, storage)
        sha256 = sha256_of(url, storage) if content else None
    except UserError as error:
        return Indexed(0, str(error), Tally())
    doubts.merge(scan.skipped)
    for byte in scan.archives:
        doubts.add("archives begin after the end of another, where most tools stop", f"byte {byte}")
    return Indexed(len(index), fault, doubts, Digests(index.digest, scan.digest, sha256))


def write_index_of(
    tar: str | Path, samples: Iterable[tuple[Sample, Sequence[str]]], storage: Storage
) -> tuple[ShardIndex, Tally]:
    """Write the `.idx` of a tar with known samples and file names.

    Return the index, read back, and a tally of skipped and doubtful files. Raises `UserError` if
    the index does not read as it was written.
    """
    path, lines, kept, doubts = index_path(tar), [], [], Tally()
    for sample, names in samples:
        if not is_readable(sample, names):
            doubts.add(_UNREADABLE, names[0])
            continue
        if dotted := _dotted(sample, names):
            doubts.add(_DOTTED, dotted)
        lines.append(_line(sample, names))
        kept.append(sample)
    text = "\n".join([f"v1.2 {len(lines)}", *lines]) + "\n"
    storage.write(path, text.encode("utf-8", "surrogateescape"))
    index = ShardIndex(storage.read(path), path)
    if index[:] != kept:
        raise UserError(f"{path} does not read as it was written: does another command write it?")
    for key in _again(sample.key for sample in kept):
        doubts.add(_REPEATED, key)
    return index, doubts


def is_readable(sample: Sample, names: Sequence[str]) -> bool:
    """Return True if an index can hold a sample of files with these names."""
    line = _line(sample, names)
    try:
        return "\n" not in line and _read_sample(line, "") == sample
    except UserError:
        return False


def _dotted(sample: Sample, names: Sequence[str]) -> str | None:
    """Return a name of which a part behind a dot was likely meant to belong to the key.

    That is an image (or a text beside it) whose extension begins with anything but a known role.
    """
    parts = [name.rpartition(".") for name in sample.members]
    own = {last for first, _, last in parts if not first}
    texts = {first for first, _, last in parts if last in ("txt", "json")}
    for (first, _, last), name in zip(parts, names, strict=True):
        if not first or first in _ROLES or last not in _IMAGES:
            continue
        if first in texts or not own & _IMAGES:
            return name
    return None


def _again(keys: Iterable[str]) -> Iterator[str]:
    """Yield, once each, what comes again."""
    return (key for key, count in Counter(keys).items() if count > 1)


def _line(sample: Sample, names: Sequence[str]) -> str:
    entries = zip(names, sample.members.values(), strict=True)
    return " ".join(_index_entry(name, *place) for name, place in entries)


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
    if split is None or len(members) < len(extensions):
        raise _no_sample(path)
    return Sample(split[0], members)


def _read_spaced_sample(line: str, path: str) -> Sample:
    entries = list(_INDEX_ENTRY.finditer(line))
    split = key_and_extension(entries[0][4]) if entries else None
    if split is None or "".join(entry[0] for entry in entries) != line:
        raise _no_sample(path)
    members = {e[1].lower(): (int(e[2]), int(e[3])) for e in entries}
    if len(members) < len(entries):
        raise _no_sample(path)
    return Sample(split[0], members)


def _no_sample(path: str) -> UserError:
    return UserError(f"{path} has a line that is no sample: {how_to_index(split_url(path)[0])}")


def _header_count(line: str, path: str) -> int:
    match = _INDEX_HEADER.fullmatch(line)
    if match is None:
        raise UserError(f"{path} is no index of a tar: {how_to_index(split_url(path)[0])}")
    return int(match[1])


def how_to_index(folder: str) -> str:
    """Return the advice for a missing or wrong index."""
    return f"run `python -m shards index {folder}`"
