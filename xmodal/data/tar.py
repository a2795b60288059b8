"""Uncompressed tars: their files, and the grouping of files into samples by key."""

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from xmodal.data.storage import Storage, open_storage
from xmodal.data.tar_headers import BrokenTar, Headers
from xmodal.errors import UserError

# webdataset's naming: the key is the path up to the first dot of the base name.
_KEY_AND_EXTENSION = re.compile(r"((?:.*/|)[^./]+)\.([^/]+)", re.DOTALL)
_META_NAME = re.compile(r"__[^/]*__($|/)")
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")
_NUM_EXAMPLES = 5


class Sample(NamedTuple):
    """Sample of a shard: the place of each of its extensions ("jpg", "source.jpg").

    `members` maps the extension in lower case to the offset of the file's first byte in the tar
    and its size in bytes.
    """

    key: str
    members: dict[str, tuple[int, int]]


class Member(NamedTuple):
    """One regular file in a tar."""

    name: str
    offset: int
    size: int


class Tally:
    """Counts of faults by cause, each with its first few examples."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, list[str]] = {}

    def add(self, cause: str, example: str) -> None:
        self.counts[cause] += 1
        known = self.examples.setdefault(cause, [])
        if len(known) < _NUM_EXAMPLES:
            known.append(example)

    def merge(self, other: "Tally", place: str = "") -> None:
        """Add the counts of another tally, and its examples with their place."""
        self.counts += other.counts
        for cause, examples in other.examples.items():
            known = self.examples.setdefault(cause, [])
            known += [f"{place} {one}".lstrip() for one in examples[: _NUM_EXAMPLES - len(known)]]

    def lines(self) -> Iterator[str]:
        """Yield a line for each cause."""
        for cause, count in self.counts.items():
            more = ", …" if count > len(self.examples[cause]) else ""
            yield f"{count:,} {cause}: {', '.join(self.examples[cause])}{more}"


class BrokenShard(UserError):
    """Truncated or broken tar: the samples before the break can be read."""


class TarScan:
    """The regular files of an uncompressed tar of `num_bytes`, in order.

    Iterating raises `BrokenShard`, after the last complete file, if the tar is truncated or broken,
    and another `UserError` if it cannot be read. Afterwards `skipped` counts entries that cannot
    belong to a sample, `archives` lists the starts of further archives in the same file, `beyond`
    is a line on trailing bytes that are no tar, and `digest` is the digest of all headers.
    """

    def __init__(self, file: BinaryIO, num_bytes: int, url: str) -> None:
        self.file, self.url = file, url
        self.last: str | None = None  # the last whole file so far
        self.skipped = Tally()
        self._headers = Headers(file, num_bytes)

    @property
    def digest(self) -> str:
        return self._headers.digest

    @property
    def archives(self) -> list[int]:
        return self._headers.archives

    @property
    def beyond(self) -> str | None:
        found = self._headers.beyond
        return None if found is None else f"shard {self.url} {found}"

    def __iter__(self) -> Iterator[Member]:
        try:
            for entry in self._headers:
                if not entry.what:
                    yield Member(entry.name, entry.offset, entry.size)
                    self.last = entry.name
                elif entry.what != "folder" and key_and_extension(entry.name):
                    self.skipped.add(f"files are skipped ({entry.what})", entry.name)
        except OSError as error:
            raise UserError(f"shard {self.url} cannot be read: {error.strerror or error}") from None
        except BrokenTar as error:
            why = self._why_no_tar() or str(error)
            raise BrokenShard(
                f"shard {self.url} {why} (last whole file: {self.last or 'none'})"
            ) from None

    def _why_no_tar(self) -> str | None:
        self.file.seek(0)
        magic = self.file.read(6)
        if magic.startswith(_COMPRESSED):
            return "is compressed: unpack it to a plain tar"
        return None if magic else "is a file of zero bytes"


@contextmanager
def scan_tar(url: str, storage: Storage) -> Iterator[TarScan]:
    """Open a tar to scan it once; raises `UserError` if it cannot be read."""
    try:
        file = storage.open(url)
    except OSError as error:
        raise UserError(f"shard {url} cannot be read: {error.strerror or error}") from None
    with file:
        num_bytes = file.seek(0, io.SEEK_END)
        yield TarScan(file, num_bytes, url)


def tar_samples(url: str | Path, storage: Storage | None = None) -> Iterator[Sample]:
    """Scan the samples of a tar, in order.

    Adjacent files of one key are one sample; a repeated extension begins another. Raises
    `BrokenShard`, after the last complete sample, if the tar is truncated or broken.
    """
    with scan_tar(str(url), storage or open_storage(str(url))) as scan:
        yield from (sample for sample, _ in grouped(scan))


def key_and_extension(name: str) -> tuple[str, str] | None:
    """Split a member's name as webdataset does: `a/b.Source.JPG` is `a/b` and `source.jpg`.

    None for files outside of samples: names without a dot, hidden files, `__meta__`.
    """
    match = _KEY_AND_EXTENSION.fullmatch(name)
    if match is None or _META_NAME.match(name):
        return None
    return match[1], match[2].lower()


def grouped(members: Iterable[Member]) -> Iterator[tuple[Sample, list[str]]]:
    """Group the files of a tar into samples, each with its files' names."""
    sample, names = Sample("", {}), list[str]()
    for member in members:
        split = key_and_extension(member.name)
        if split is None:
            continue
        key, extension = split
        if key != sample.key or extension in sample.members:
            if names:
                yield sample, names
            sample, names = Sample(key, {}), []
        sample.members[extension] = (member.offset, member.size)
        names.append(member.name)
    if names:
        yield sample, names
