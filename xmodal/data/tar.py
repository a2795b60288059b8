"""Uncompressed tars: the files in them, and the samples that files of one key make."""

import io
import re
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from xmodal.data.storage import Storage, open_storage
from xmodal.errors import UserError

# webdataset's naming: the key is the path up to the first dot of the base name.
_KEY_AND_EXTENSION = re.compile(r"((?:.*/|)[^./]+)\.([^/]+)", re.DOTALL)
_META_NAME = re.compile(r"__[^/]*__($|/)")
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


def tar_samples(url: str | Path, storage: Storage | None = None) -> Iterator[Sample]:
    """Scan the samples of a tar, in order.

    Files of one key that follow each other are one sample; an extension that comes again begins
    another. Raises `UserError`, after the last whole sample, when the tar is cut or broken.
    """
    return (sample for sample, _ in named_samples(str(url), storage))


def named_samples(url: str, storage: Storage | None) -> Iterator[tuple[Sample, list[str]]]:
    """Scan the samples of a tar as `tar_samples` does, each with the names of its files."""
    storage = storage or open_storage(url)
    try:
        with storage.open(url) as file:
            num_bytes = file.seek(0, io.SEEK_END)
            file.seek(0)
            yield from grouped(tar_members(file, num_bytes, url), url)
    except FileNotFoundError:
        raise UserError(f"shard {url} cannot be read: there is no such file") from None


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


def _require_end_mark(file: BinaryIO, offset: int) -> None:
    file.seek(offset)
    block = file.read(_BLOCK)
    if len(block) < _BLOCK:
        raise EOFError
    if any(block):
        # A broken header raises here; a sound one that ended the scan lacks what belongs to it.
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        raise EOFError


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
