"""Headers of uncompressed tars: ustar, GNU and PAX, read one after the other in bounded memory.

Every byte of the archive is accounted for: headers, data, or zeros. Python's `tarfile` is not used:
it stops silently at the first end mark, follows negative sizes, and recurses for every extended
header.
"""

import hashlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

BLOCK = 512
_ZEROS = bytes(BLOCK)
_CHUNK = 2**20  # bytes of zeros that are read at once
_MAX_EXTENDED = 2**20  # bytes of extended headers before one file: paths are at most 4 KB
_WITHOUT_DATA = b"123456"  # links, devices, folders, pipes
_FILES = b"0\x007"
_LONG_NAME, _LONG_LINK, _PAX, _PAX_OF_ALL, _SPARSE = b"L", b"K", b"xX", b"g", b"S"


class BrokenTar(Exception):
    """Tar that cannot be read further; the message is the reason, to follow `shard URL`."""


class Entry(NamedTuple):
    """Entry that one header announces. `what` is "" for a regular file, otherwise its kind."""

    name: str
    offset: int
    size: int
    what: str


class Headers:
    """Entries of a tar of `num_bytes`; iterating raises `BrokenTar` at a break.

    Archives after an end mark are read too: `archives` has the bytes at which they begin, and
    `beyond` a line on other trailing bytes. `digest` is the digest of all headers so far.
    """

    def __init__(self, file: BinaryIO, num_bytes: int) -> None:
        self.file, self.num_bytes = file, num_bytes
        self.archives: list[int] = []
        self.beyond: str | None = None
        self._hash = hashlib.blake2b(digest_size=16)
        self._of_all: dict[bytes, bytes] = {}  # PAX records that hold for all files

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def __iter__(self) -> Iterator[Entry]:
        offset, ended = 0, False
        while offset < self.num_bytes:
            if ended and not self._is_archive(offset):
                count = f"{self.num_bytes - offset:,} bytes after its end"
                self.beyond = f"has {count}, from byte {offset:,}, that are no tar"
                return
            if ended:
                self.archives.append(offset)
            block = self._read(offset, BLOCK)
            ended = block == _ZEROS
            if ended:
                offset = self._end_of_zeros(offset)
            else:
                entry, offset = self._entry(block, offset)
                yield entry
        if not ended:
            raise BrokenTar("is truncated")

    def _entry(self, block: bytes, offset: int) -> tuple[Entry, int]:
        """Return what the header at `offset` announces, and where the next header is."""
        extended, begin = _Extended(), offset
        while (kind := _checked(block, offset)[156:157]) in b"LKxXg":
            size = _number(block[124:136], offset)
            offset += BLOCK
            if offset + size - begin > _MAX_EXTENDED:
                raise BrokenTar(f"has an extended header of {size:,} bytes at byte {begin:,}")
            self._hash.update(block)
            payload = self._read(offset, size)
            self._hash.update(payload)
            if kind == _PAX_OF_ALL:
                self._of_all.update(_pax_records(payload, offset))
            else:
                extended.take(kind, payload, offset)
            offset += _padded(size)
            block = self._read(offset, BLOCK)
        self._hash.update(block)
        extended.records = self._of_all | extended.records
        name, size = extended.name(block), extended.size(block, offset)
        start = offset + BLOCK
        start = self._behind_sparse_map(block, start) if kind == _SPARSE else start
        what = "sparse file" if extended.is_sparse else _what(kind, name)
        end = start if _is_without_data(kind, name) else start + _padded(size)
        if start + (end > start) * size > self.num_bytes:
            raise BrokenTar("is truncated")
        return Entry(name, start, size, what), end

    def _read(self, offset: int, size: int) -> bytes:
        self.file.seek(offset)
        data = self.file.read(size)
        if len(data) < size:
            raise BrokenTar("is truncated")
        return data

    def _end_of_zeros(self, offset: int) -> int:
        """Return where the first block that is not all zeros begins, or the end of the file."""
        self.file.seek(offset)
        while chunk := self.file.read(_CHUNK):
            if found := chunk.lstrip(b"\0"):
                nonzero = offset + len(chunk) - len(found)
                return nonzero - nonzero % BLOCK
            offset += len(chunk)
        return self.num_bytes

    def _is_archive(self, offset: int) -> bool:
        try:
            return bool(_checked(self._read(offset, BLOCK), offset))
        except BrokenTar:
            return False

    def _behind_sparse_map(self, block: bytes, offset: int) -> int:
        more = block[482]
        while more:
            block = self._read(offset, BLOCK)
            self._hash.update(block)
            more = block[504]
            offset += BLOCK
        return offset


class _Extended:
    """Contents of the extended headers before a file."""

    def __init__(self) -> None:
        self.records: dict[bytes, bytes] = {}
        self._kinds: set[bytes] = set()
        self._long_name: bytes | None = None

    def take(self, kind: bytes, payload: bytes, offset: int) -> None:
        """Read an extended header; raises `BrokenTar` for a second one of its kind."""
        kind = b"x" if kind in _PAX else kind
        if kind in self._kinds:
            raise BrokenTar(f"has two extended headers of one kind for a file, at byte {offset:,}")
        self._kinds.add(kind)
        if kind == _LONG_NAME:
            self._long_name = payload.partition(b"\0")[0]
        elif kind != _LONG_LINK:
            self.records.update(_pax_records(payload, offset))

    @property
    def is_sparse(self) -> bool:
        return any(key.startswith(b"GNU.sparse.") for key in self.records)

    def name(self, block: bytes) -> str:
        """Return the full name of the file whose header is `block`."""
        path = self.records.get(b"GNU.sparse.name") or self.records.get(b"path")
        return (path or self._long_name or _name(block)).decode("utf-8", "surrogateescape")

    def size(self, block: bytes, offset: int) -> int:
        """Return the bytes of the file, as they are in the tar."""
        text = self.records.get(b"size")
        if text and not (text.isdigit() and len(text) < 20):
            raise _broken_header(offset)
        return int(text) if text else _number(block[124:136], offset)


def is_header_of(blocks: bytes | memoryview, name: str, size: int) -> bool:
    """Return True if the block before a file is a header of that name, in any case, and size.

    `blocks` end with it. Names that do not fit into a header stand in the block before it.
    """
    block, plain = blocks[-BLOCK:], name.encode("utf-8", "surrogateescape")
    is_plain = block[: len(plain) + 1] == plain + b"\0" and not block[345]
    if is_plain and block[124:136] == b"%011o\0" % size:
        return True  # as nearly all are
    data, before = bytes(block), bytes(blocks[:-BLOCK]).lower()
    try:
        if _number(data[124:136], 0) != size:
            return False
    except BrokenTar:
        return False
    wanted = plain.lower()
    return (
        _name(data).lower() == wanted
        or before.startswith(wanted + b"\0")
        or b" path=%b\n" % wanted in before
    )


def _checked(block: bytes, offset: int) -> bytes:
    """Return a header; raises `BrokenTar` if its checksum is wrong."""
    try:
        wanted = _number(block[148:156], offset)
    except BrokenTar:
        wanted = -1
    rest = block[:148] + block[156:]
    unsigned = 256 + sum(rest)
    # Some old writers summed signed bytes.
    if wanted != unsigned and wanted != unsigned - 256 * sum(byte > 127 for byte in rest):
        raise _broken_header(offset) if offset else BrokenTar("is no tar")
    return block


def _number(field: bytes, offset: int) -> int:
    """Return a number of a header: octal digits, or GNU's base 256; raises `BrokenTar`."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.partition(b"\0")[0].strip()
    if digits.strip(b"01234567"):  # a minus, base 256 below zero, or anything else
        raise _broken_header(offset)
    return int(digits or b"0", 8)


def _name(block: bytes) -> bytes:
    """Return the name in a header itself."""
    name, prefix = block[:100].partition(b"\0")[0], block[345:500].partition(b"\0")[0]
    is_ustar = block[257:263] == b"ustar\0"  # GNU's own format has other things there
    return prefix + b"/" + name if prefix and is_ustar else name


def _pax_records(payload: bytes, offset: int) -> dict[bytes, bytes]:
    """Return what the records `LENGTH KEY=VALUE` and a line break say, by their keys."""
    records, start = {}, 0
    while start < len(payload):
        space = payload.find(b" ", start, start + 8)
        digits = payload[start : max(space, start)]
        end = start + int(digits) if digits.isdigit() else 0
        record = payload[space + 1 : end]
        key, equals, value = record[:-1].partition(b"=")
        if end > len(payload) or not (equals and record.endswith(b"\n")):
            raise _broken_header(offset)
        records[key] = value
        start = end
    return records


def _what(kind: bytes, name: str) -> str:
    if kind in _FILES and not _is_without_data(kind, name):
        return ""
    names = {b"1": "hard link", b"2": "symbolic link", b"5": "folder", _SPARSE: "sparse file"}
    return names.get(kind, "folder" if kind == b"\0" else "special file")


def _is_without_data(kind: bytes, name: str) -> bool:
    # Before folders had a kind of their own, a slash told them from files.
    return kind in _WITHOUT_DATA or (kind == b"\0" and name.endswith("/"))


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _broken_header(offset: int) -> BrokenTar:
    return BrokenTar(f"has a broken header at byte {offset:,}")
