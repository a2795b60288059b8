"""Which samples a set of shards holds, and where in its tars each of their files lies.

A shard set is a folder of tars, on disk or in a bucket, with two kinds of index, both in formats
other tools read too: `shardindex.json` as webdataset's `wids` writes it (each shard's name, number
of samples and bytes), and beside each tar an `.idx` as NVIDIA DALI's `wds2idx` writes it (offset
and size of each file). A tar is scanned once, when its index is made; afterwards any sample is one
seek away.
"""

import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

from braceexpand import UnbalancedBracesError, braceexpand  # type: ignore[attr-defined]

from xmodal.data.storage import Storage, open_storage
from xmodal.data.storage.config import CacheConfig, S3Config
from xmodal.errors import UserError

MANIFEST_NAME = "shardindex.json"
RELEVANCE_NAME = "relevance.json"
MAX_CAPTION_CHARACTERS = 10_000  # longer ones are no captions but whole pages

# webdataset's naming: the key is the path up to the first dot of the base name.
_KEY_AND_EXTENSION = re.compile(r"((?:.*/|)[^./]+)\.([^/]+)", re.DOTALL)
_META_NAME = re.compile(r"__[^/]*__($|/)")
# A file in an .idx line. Its name ends in its extension, which finds the end of names with spaces.
_INDEX_ENTRY = re.compile(r"(.+?) (\d+) (\d+) (.*?\.\1)(?: |$)")
_INDEX_HEADER = re.compile(r"v1\.[0-2] (\d+)")
_CUT_SAYS_TARFILE = re.compile("end of data|empty header|truncated header")
_BLOCK = 512


class Sample(NamedTuple):
    """One sample of a shard: for each of its extensions ("jpg", "source.jpg") where it lies.

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


@dataclass(frozen=True)
class Shard:
    """One tar of a shard set: where it lies, how many samples it holds, its size in bytes."""

    url: str
    num_samples: int
    num_bytes: int


@dataclass(frozen=True)
class Manifest:
    """A shard set: its shards in order, and what else its captions are true of.

    `relevance` maps an image id to one list of image ids for each of its captions: the images
    that the caption is true of, the image itself included. None where the set has none.
    `notices` are lines about what is not as it should be and can still be trained on; `lost` is
    about how many samples are beyond the end of shards that have been cut.
    """

    url: str
    shards: tuple[Shard, ...]
    relevance: dict[str, list[list[str]]] | None = None
    notices: tuple[str, ...] = ()
    lost: int = 0
    storage: Storage = field(default_factory=lambda: open_storage(""), compare=False, repr=False)

    @property
    def num_samples(self) -> int:
        return sum(shard.num_samples for shard in self.shards)

    def index(self, shard: Shard) -> "ShardIndex":
        """Read the index of a shard.

        Raises `UserError` when it is damaged or counts other samples than the manifest.
        """
        index = read_index(shard.url, self.storage)
        if len(index) != shard.num_samples:
            raise UserError(
                f"{index_path(shard.url)} has {len(index)} samples, {MANIFEST_NAME} says "
                f"{shard.num_samples}: {_remake(_split(shard.url)[0])}"
            )
        return index


class ShardIndex(Sequence[Sample]):
    """The samples of a shard in the order of its tar.

    What is held is small, for there are as many of these in memory as a run has lanes: arrays of
    offsets and sizes where all samples have the same extensions, else the lines of the `.idx`.
    """

    def __init__(self, text: bytes, path: str) -> None:
        self.path = path
        header, _, body = text.removesuffix(b"\n").partition(b"\n")
        self._count = body.count(b"\n") + 1 if body else 0
        if _header_count(header.decode("utf-8", "replace"), path) != self._count:
            raise UserError(f"{path} is cut: {_remake(_split(path)[0])}")
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


def read_manifest(
    url: str | Path, s3: S3Config | None = None, cache: CacheConfig | None = None
) -> Manifest:
    """Read which shards a URL names, and check that they are all there.

    The URL is a folder, a `shardindex.json`, a tar, or any of these with braces
    (`s3://bucket/train-{000000..000099}.tar`); the folder of each has a manifest. Raises
    `UserError` when the folder, its manifest, a shard or its index is missing, a shard has grown,
    is empty, or there is none.
    """
    url = str(url)
    storage = open_storage(url, s3, cache)
    folders: dict[str, _Folder] = {}
    shards: list[Shard] = []
    for part in _expanded(url):
        place, name = _split(part) if part.endswith((".tar", MANIFEST_NAME)) else (part, None)
        place = place.rstrip("/") or place
        if place not in folders:
            folders[place] = _Folder(place, storage)
        shards += folders[place].shards(None if name == MANIFEST_NAME else name)
    notices = tuple(line for folder in folders.values() for line in folder.notices)
    lost = round(sum(folder.lost for folder in folders.values()))
    return Manifest(url, tuple(shards), _relevance(folders.values()), notices, lost, storage)


def tar_members(file: BinaryIO, num_bytes: int, url: str) -> Iterator[Member]:
    """Scan the regular files of an uncompressed tar of `num_bytes`, in order.

    Raises `UserError`, after the last whole file, when the tar is cut or a header is broken.
    """
    last = "none"
    try:
        with tarfile.open(fileobj=file, mode="r:", encoding="utf-8") as tar:
            for info in tar:
                if info.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
                    # tarfile misses data that is cut before it looks for the next header.
                    if info.offset_data + info.size > num_bytes:
                        raise EOFError
                    yield Member(info.name, info.offset_data, info.size)
                    last = info.name
                # tarfile remembers each file it has seen, which a scan does not need.
                tar.members.clear()  # type: ignore[attr-defined]
            # tarfile takes a broken header and a missing end for the end of the archive.
            _require_end_mark(file, tar.offset)
    except OSError as error:
        raise UserError(f"shard {url} cannot be read: {error.strerror or error}") from None
    except (tarfile.TarError, EOFError, ValueError) as error:
        why = _why_unreadable(file, error)
        raise UserError(f"shard {url} {why} (last whole file: {last})") from None


def key_and_extension(name: str) -> tuple[str, str] | None:
    """Split a member's name as webdataset does: `a/b.Source.JPG` is `a/b` and `source.jpg`.

    None for what is no part of a sample: names without a dot, hidden files, `__meta__`.
    """
    match = _KEY_AND_EXTENSION.fullmatch(name)
    if match is None or _META_NAME.match(name):
        return None
    return match[1], match[2].lower()


def tar_samples(url: str | Path, storage: Storage | None = None) -> Iterator[Sample]:
    """Scan the samples of a tar, in order.

    Files of one key that follow each other are one sample; an extension that comes again begins
    another. Raises `UserError`, after the last whole sample, when the tar is cut or broken.
    """
    return (sample for sample, _ in _scan(str(url), storage))


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
        scanned.extend(_scan(url, storage))
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


def grouped(members: Iterable[Member], url: str) -> Iterator[tuple[Sample, list[str]]]:
    """Group the files of a tar into samples, each with its files' names.

    Raises `UserError` for a name that no index can hold.
    """
    sample, names = Sample("", {}), list[str]()
    for member in members:
        split = key_and_extension(member.name)
        if split is None:
            continue
        if "\n" in member.name:
            raise UserError(f"{url}: {member.name!r} has a line break, which no index can hold")
        key, extension = split
        if key != sample.key or extension in sample.members:
            if names:
                yield sample, names
            sample, names = Sample(key, {}), []
        sample.members[extension] = (member.offset, member.size)
        names.append(member.name)
    if names:
        yield sample, names


def read_index(tar: str | Path, storage: Storage | None = None) -> ShardIndex:
    """Read the `.idx` of a tar; raises `UserError` when it is missing or damaged."""
    path = index_path(tar)
    try:
        text = (storage or open_storage(path)).read(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {_remake(_split(path)[0])}") from None
    return ShardIndex(text, path)


def write_manifest(
    folder: str | Path, num_samples: Mapping[str, int], storage: Storage | None = None
) -> None:
    """Write a folder's `shardindex.json` for its tars: names in order, each with its samples."""
    storage = storage or open_storage(str(folder))
    sizes = storage.list(str(folder))
    shards = [
        {"url": name, "nsamples": count, "filesize": sizes[name]}
        for name, count in num_samples.items()
    ]
    document = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": shards}
    text = json.dumps(document, indent=1) + "\n"
    storage.write(f"{folder}/{MANIFEST_NAME}", text.encode())


def write_atomically(path: Path, text: str) -> None:
    """Write a text file whole or not at all: beside its place, then renamed into it."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(text.encode("utf-8", "surrogateescape"))
    part.replace(path)


class _Folder:
    """A folder of shards, listed once."""

    def __init__(self, folder: str, storage: Storage) -> None:
        self.folder, self.storage = folder, storage
        self.notices: list[str] = []
        self.lost = 0.0
        self._sizes = {folder: storage.list(folder)}
        if MANIFEST_NAME not in self._sizes[folder]:
            if not self._sizes[folder] and not storage.folders(folder):
                raise UserError(f"there is no folder {folder} with shards")
            raise UserError(f"{folder} has no {MANIFEST_NAME}: {_remake(folder)}")
        self._entries = _shard_entries(f"{folder}/{MANIFEST_NAME}", storage)

    def shards(self, name: str | None) -> list[Shard]:
        """Return the shard of that name, or all; raises `UserError` for what is not there."""
        entries = [entry for entry in self._entries if name in (None, entry["url"])]
        if not entries:
            place = f"{self.folder}/{MANIFEST_NAME}"
            raise UserError(
                f"{place} lists no shards"
                if name is None
                else f"{place} does not list {name}: {_remake(self.folder)}"
            )
        return [self._shard(entry) for entry in entries]

    def relevance(self) -> dict[str, list[list[str]]] | None:
        """Read which images the captions are true of, where the folder says so."""
        if RELEVANCE_NAME not in self._sizes[self.folder]:
            return None
        path = f"{self.folder}/{RELEVANCE_NAME}"
        try:
            return json.loads(self.storage.read(path))
        except ValueError:
            raise UserError(f"{path} is no JSON: remove it, or build the shards again") from None

    def _shard(self, entry: dict) -> Shard:
        name = entry["url"]
        url = name if name.startswith("/") or "://" in name else f"{self.folder}/{name}"
        size, recorded = self._size(url), entry.get("filesize")
        if size is None:
            raise UserError(f"shard {url} is missing, but {MANIFEST_NAME} lists it")
        if recorded is not None and size > recorded:
            raise UserError(
                f"shard {url} has {size:,} bytes, {MANIFEST_NAME} says {recorded:,}: "
                f"changed? If it is right, {_remake(self.folder)}"
            )
        if recorded is not None and size < recorded:
            self.lost += entry["nsamples"] * (1 - size / recorded)
            self.notices.append(
                f"shard {url} is cut: {size:,} of {recorded:,} bytes; its samples beyond them "
                "count as bad"
            )
        if entry["nsamples"] == 0:
            raise UserError(f"shard {url} is empty: remove it and {_remake(self.folder)}")
        if self._size(index_path(url)) is None:
            index = _split(index_path(url))[1]
            raise UserError(f"shard {url} has no {index}: {_remake(self.folder)}")
        return Shard(url, entry["nsamples"], size)

    def _size(self, url: str) -> int | None:
        folder, name = _split(url)
        if folder not in self._sizes:
            self._sizes[folder] = self.storage.list(folder)
        return self._sizes[folder].get(name)


def _relevance(folders: Iterable[_Folder]) -> dict[str, list[list[str]]] | None:
    found = [folder.relevance() for folder in folders]
    if any(each is None for each in found):
        return None
    return {key: value for each in found if each for key, value in each.items()}


def _expanded(url: str) -> list[str]:
    try:
        return list(braceexpand(url))
    except UnbalancedBracesError:
        raise UserError(f"{url}: a brace is not closed") from None


def _split(url: str) -> tuple[str, str]:
    """Split a URL into its folder and its name."""
    folder, slash, name = url.rpartition("/")
    return (folder or slash or "."), name


def _scan(url: str, storage: Storage | None) -> Iterator[tuple[Sample, list[str]]]:
    storage = storage or open_storage(url)
    try:
        with storage.open(url) as file:
            num_bytes = file.seek(0, io.SEEK_END)
            file.seek(0)
            yield from grouped(tar_members(file, num_bytes, url), url)
    except FileNotFoundError:
        raise UserError(f"shard {url} cannot be read: there is no such file") from None


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
    return UserError(f"{path} has a line that is no sample: {_remake(_split(path)[0])}")


def _header_count(line: str, path: str) -> int:
    match = _INDEX_HEADER.fullmatch(line)
    if match is None:
        raise UserError(f"{path} is no index of a tar: {_remake(_split(path)[0])}")
    return int(match[1])


def _shard_entries(path: str, storage: Storage) -> list[dict]:
    try:
        document = json.loads(storage.read(path))
        entries = document["shardlist"]
        for entry in entries:
            entry["url"], entry["nsamples"] = str(entry["url"]), int(entry["nsamples"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is no shard index: {_remake(_split(path)[0])}") from None
    return entries


def _require_end_mark(file: BinaryIO, offset: int) -> None:
    file.seek(offset)
    block = file.read(_BLOCK)
    if len(block) < _BLOCK:
        raise EOFError
    if any(block):
        raise tarfile.HeaderError


def _why_unreadable(file: BinaryIO, error: Exception) -> str:
    file.seek(0)
    magic = file.read(6)
    if magic.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        return "is compressed: unpack it to a plain tar"
    if not magic:
        return "is a file of zero bytes"
    if isinstance(error, EOFError) or _CUT_SAYS_TARFILE.search(str(error)):
        return "is cut in the middle"
    return "is no tar or has a broken header"


def _remake(folder: str) -> str:
    return f"run `python -m shards index {folder}`"
