"""Which samples a set of shards holds, and where in its tars each of their files lies.

A shard set is a folder of tars with two kinds of index, both in formats other tools read too:
`shardindex.json` as webdataset's `wids` writes it (each shard's name, number of samples and
bytes), and beside each tar an `.idx` as NVIDIA DALI's `wds2idx` writes it (offset and size of
each file). A tar is scanned once, when its index is made; afterwards any sample is one seek away.
"""

import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from xmodal.errors import UserError

MANIFEST_NAME = "shardindex.json"
RELEVANCE_NAME = "relevance.json"

# webdataset's naming: the key is the path up to the first dot of the base name.
_KEY_AND_EXTENSION = re.compile(r"((?:.*/|)[^./]+)\.([^/]+)", re.DOTALL)
_META_NAME = re.compile(r"__[^/]*__($|/)")
# A file in an .idx line. Its name ends in its extension, which finds the end of names with spaces.
_INDEX_ENTRY = re.compile(r"(.+?) (\d+) (\d+) (.*?\.\1)(?: |$)")
_INDEX_HEADER = re.compile(r"v1\.[0-2] (\d+)")
_CUT_SAYS_TARFILE = re.compile("end of data|empty header|truncated header")
_BLOCK = 512


@dataclass(frozen=True)
class Sample:
    """One sample of a shard: for each of its extensions ("jpg", "source.jpg") where it lies.

    `members` maps the extension in lower case to the offset of the file's first byte in the tar
    and its size in bytes.
    """

    key: str
    members: dict[str, tuple[int, int]]


@dataclass(frozen=True)
class Member:
    """One regular file in a tar."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class Shard:
    """One tar of a shard set: its path, how many samples it holds, its size in bytes."""

    url: str
    num_samples: int
    num_bytes: int

    def samples(self) -> list[Sample]:
        """Read the samples in the order of the tar from the `.idx` beside it.

        Raises `UserError` when the index is damaged or counts other samples than the manifest.
        """
        samples = _read_index(index_path(self.url))
        if len(samples) != self.num_samples:
            raise UserError(
                f"{index_path(self.url)} has {len(samples)} samples, {MANIFEST_NAME} says "
                f"{self.num_samples}: {_remake(Path(self.url).parent)}"
            )
        return samples


@dataclass(frozen=True)
class Manifest:
    """A shard set: its folder, its shards in order, and what else its captions are true of.

    `relevance` maps an image id to one list of image ids for each of its captions: the images
    that the caption is true of, the image itself included. None where the set has none.
    """

    url: str
    shards: tuple[Shard, ...]
    relevance: dict[str, list[list[str]]] | None = None

    @property
    def num_samples(self) -> int:
        return sum(shard.num_samples for shard in self.shards)


def read_manifest(url: str | Path) -> Manifest:
    """Read the manifest of a folder of shards (or a `shardindex.json`), and check it is all there.

    Raises `UserError` when the folder, the manifest, a shard or its index is missing, a shard has
    another size than recorded, a shard is empty, or there is none.
    """
    path = Path(url)
    folder = path.parent if path.name == MANIFEST_NAME else path
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder} with shards")
    if not (folder / MANIFEST_NAME).is_file():
        raise UserError(f"{folder} has no {MANIFEST_NAME}: {_remake(folder)}")
    entries = _shard_entries(folder / MANIFEST_NAME)
    shards = tuple(_read_shard(folder, entry) for entry in entries)
    if not shards:
        raise UserError(f"{folder / MANIFEST_NAME} lists no shards")
    return Manifest(str(folder), shards, _read_relevance(folder / RELEVANCE_NAME))


def tar_members(path: str | Path) -> Iterator[Member]:
    """Scan the regular files of an uncompressed tar, in order.

    Raises `UserError`, after the last whole file, when the tar is cut or a header is broken.
    """
    last = "none"
    try:
        num_bytes = Path(path).stat().st_size
        with tarfile.open(path, "r:", encoding="utf-8") as tar:
            for info in tar:
                if info.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
                    # tarfile misses data that is cut before it looks for the next header.
                    if info.offset_data + info.size > num_bytes:
                        raise EOFError
                    yield Member(info.name, info.offset_data, info.size)
                    last = info.name
            # tarfile takes a broken header and a missing end for the end of the archive.
            _require_end_mark(tar)
    except OSError as error:
        raise UserError(f"shard {path} cannot be read: {error.strerror}") from None
    except (tarfile.TarError, EOFError, ValueError) as error:
        why = _why_unreadable(path, error)
        raise UserError(f"shard {path} {why} (last whole file: {last})") from None


def key_and_extension(name: str) -> tuple[str, str] | None:
    """Split a member's name as webdataset does: `a/b.Source.JPG` is `a/b` and `source.jpg`.

    None for what is no part of a sample: names without a dot, hidden files, `__meta__`.
    """
    match = _KEY_AND_EXTENSION.fullmatch(name)
    if match is None or _META_NAME.match(name):
        return None
    return match[1], match[2].lower()


def tar_samples(path: str | Path) -> Iterator[Sample]:
    """Scan the samples of a tar, in order.

    Files of one key that follow each other are one sample; an extension that comes again begins
    another. Raises `UserError`, after the last whole sample, when the tar is cut or broken.
    """
    return (sample for sample, _ in _grouped(path))


def index_tar(path: str | Path) -> list[Sample]:
    """Find the samples of a tar by scanning it, as `tar_samples` does."""
    return list(tar_samples(path))


def index_path(tar_path: str | Path) -> Path:
    """Where the index of a tar lies: `a/b.tar` has `a/b.idx`."""
    return Path(tar_path).with_suffix(".idx")


def write_index(tar_path: str | Path) -> int:
    """Write the `.idx` of a tar beside it, and return its number of samples."""
    lines = []
    for sample, names in _grouped(tar_path):
        entries = zip(names, sample.members.values(), strict=True)
        lines.append(" ".join(_index_entry(name, *place) for name, place in entries))
    write_atomically(index_path(tar_path), "\n".join([f"v1.2 {len(lines)}", *lines]) + "\n")
    return len(lines)


def count_indexed(tar_path: str | Path) -> int:
    """Read the number of samples from the first line of a tar's `.idx`."""
    with index_path(tar_path).open(encoding="utf-8", errors="replace") as file:
        return _header_count(file.readline(), index_path(tar_path))


def write_manifest(folder: str | Path, num_samples: Mapping[str, int]) -> None:
    """Write a folder's `shardindex.json` for its tars: names in order, each with its samples."""
    folder = Path(folder)
    shards = [
        {"url": name, "nsamples": count, "filesize": (folder / name).stat().st_size}
        for name, count in num_samples.items()
    ]
    document = {"__kind__": "wids-shard-index-v1", "wids_version": 1, "shardlist": shards}
    write_atomically(folder / MANIFEST_NAME, json.dumps(document, indent=1) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Write a text file whole or not at all: beside its place, then renamed into it."""
    part = path.with_name(path.name + ".part")
    part.write_bytes(text.encode("utf-8", "surrogateescape"))
    part.replace(path)


def _grouped(path: str | Path) -> Iterator[tuple[Sample, list[str]]]:
    sample, names = Sample("", {}), list[str]()
    for member in tar_members(path):
        split = key_and_extension(member.name)
        if split is None:
            continue
        if "\n" in member.name:
            raise UserError(f"{path}: {member.name!r} has a line break, which no index can hold")
        key, extension = split
        if key != sample.key or extension in sample.members:
            if names:
                yield sample, names
            sample, names = Sample(key, {}), []
        sample.members[extension] = (member.offset, member.size)
        names.append(member.name)
    if names:
        yield sample, names


def _index_entry(name: str, offset: int, size: int) -> str:
    extension = name.rsplit("/", 1)[-1].split(".", 1)[1]
    return f"{extension} {offset} {size} {name}"


def _read_index(path: Path) -> list[Sample]:
    try:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
    except OSError:
        raise UserError(f"{path} cannot be read: {_remake(path.parent)}") from None
    header, *lines = text.removesuffix("\n").split("\n")
    samples = [_read_sample(line, path) for line in lines]
    if _header_count(header, path) != len(samples):
        raise UserError(f"{path} is cut: {_remake(path.parent)}")
    return samples


def _read_sample(line: str, path: Path) -> Sample:
    entries = list(_INDEX_ENTRY.finditer(line))
    split = key_and_extension(entries[0][4]) if entries else None
    if split is None or "".join(entry[0] for entry in entries) != line:
        raise UserError(f"{path} has a line that is no sample: {_remake(path.parent)}")
    return Sample(split[0], {e[1].lower(): (int(e[2]), int(e[3])) for e in entries})


def _header_count(line: str, path: Path) -> int:
    match = _INDEX_HEADER.fullmatch(line.rstrip("\n"))
    if match is None:
        raise UserError(f"{path} is no index of a tar: {_remake(path.parent)}")
    return int(match[1])


def _shard_entries(path: Path) -> list[dict]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        entries = document["shardlist"]
        for entry in entries:
            entry["url"], entry["nsamples"] = str(entry["url"]), int(entry["nsamples"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is no shard index: {_remake(path.parent)}") from None
    return entries


def _read_shard(folder: Path, entry: dict) -> Shard:
    path = folder / entry["url"]
    if not path.is_file():
        raise UserError(f"shard {path} is missing, but {MANIFEST_NAME} lists it")
    size = path.stat().st_size
    if entry.get("filesize", size) != size:
        raise UserError(
            f"shard {path} has {size:,} bytes, {MANIFEST_NAME} says {entry['filesize']:,}: "
            f"cut or changed? If it is right, {_remake(folder)}"
        )
    if entry["nsamples"] == 0:
        raise UserError(f"shard {path} is empty: remove it and {_remake(folder)}")
    if not index_path(path).is_file():
        raise UserError(f"shard {path} has no {index_path(path).name}: {_remake(folder)}")
    return Shard(str(path), entry["nsamples"], size)


def _read_relevance(path: Path) -> dict[str, list[list[str]]] | None:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"{path} is no JSON: remove it, or build the shards again") from None


def _require_end_mark(tar: tarfile.TarFile) -> None:
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    block = tar.fileobj.read(_BLOCK)
    if len(block) < _BLOCK:
        raise EOFError
    if any(block):
        raise tarfile.HeaderError


def _why_unreadable(path: str | Path, error: Exception) -> str:
    with Path(path).open("rb") as file:
        magic = file.read(6)
    if magic.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        return "is compressed: unpack it to a plain tar"
    if not magic:
        return "is a file of zero bytes"
    if isinstance(error, EOFError) or _CUT_SAYS_TARFILE.search(str(error)):
        return "is cut in the middle"
    return "is no tar or has a broken header"


def _remake(folder: Path) -> str:
    return f"run `python -m shards index {folder}`"
