"""File objects for S3: sequential reading, and writing by multipart upload."""

import io
from concurrent.futures import Future
from typing import Any, NamedTuple, Protocol

READ_AHEAD = 8 * 2**20  # bytes of a request
PART = 16 * 2**20  # bytes of an upload's part; S3 allows 10,000 of them


class Piece(NamedTuple):
    """Bytes of an object, the version of its content, and its total size."""

    data: bytes
    etag: str | None
    num_bytes: int


class _Fetch(Protocol):
    def __call__(self, start: int, stop: int, etag: str | None) -> "Future[Piece]": ...


class ObjectReader(io.RawIOBase):
    """Reads an object range by range and prefetches the next range.

    The previous range is kept for short seeks backwards.
    """

    def __init__(self, fetch: _Fetch) -> None:
        super().__init__()
        self._fetch = fetch
        self._position = 0
        self._ranges = {0: fetch(0, READ_AHEAD, None)}
        _, self._etag, self._num_bytes = self._ranges[0].result()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        begins = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._num_bytes}
        self._position = offset + begins[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        if self._position >= self._num_bytes:
            return 0
        start = self._position - self._position % READ_AHEAD
        inside = self._position - start
        piece = memoryview(self._range(start))[inside : inside + len(buffer)]
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def close(self) -> None:
        for each in self._ranges.values():
            each.cancel()
        super().close()

    def _range(self, start: int) -> bytes:
        for far in [at for at in self._ranges if abs(at - start) > READ_AHEAD]:
            self._ranges.pop(far).cancel()
        for wanted in (start, start + READ_AHEAD):
            if wanted not in self._ranges and wanted < self._num_bytes:
                self._ranges[wanted] = self._fetch(wanted, wanted + READ_AHEAD, self._etag)
        return self._ranges[start].result().data


class _Upload(Protocol):
    def begin(self) -> None: ...
    def send(self, number: int, data: bytes) -> "Future[Any]": ...
    def complete(self, answers: list[Any], num_bytes: int) -> None: ...
    def put(self, data: bytes) -> None: ...
    def abort(self) -> None: ...


class ObjectWriter(io.RawIOBase):
    """Writes an object part by part; a full part is uploaded while the next one is filled."""

    def __init__(self, upload: _Upload) -> None:
        super().__init__()
        self._upload = upload
        self._buffer = bytearray()
        self._num_bytes = 0
        self._parts: list[Future[Any]] = []

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._num_bytes

    def write(self, data: Any) -> int:
        self._buffer += data
        self._num_bytes += len(data)
        if len(self._buffer) >= PART:
            self._send()
        return len(data)

    def commit(self) -> None:
        """Complete the upload: the object appears under its name."""
        if not self._parts:
            self._upload.put(bytes(self._buffer))
            return
        if self._buffer:
            self._send()
        self._upload.complete([part.result() for part in self._parts], self._num_bytes)

    def discard(self) -> None:
        """Abort the upload and delete its parts."""
        for part in self._parts:
            part.cancel()
        if self._parts:
            self._upload.abort()

    def _send(self) -> None:
        if self._parts:
            self._parts[-1].result()  # what was sent before has failed, or has come
        else:
            self._upload.begin()
        self._parts.append(self._upload.send(len(self._parts) + 1, bytes(self._buffer)))
        self._buffer.clear()
