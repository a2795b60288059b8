"""Objects of a bucket as files: one read from its beginning on, and one written part by part."""

import io
from concurrent.futures import Future
from typing import Any, Protocol

READ_AHEAD = 8 * 2**20  # bytes of a request
PART = 16 * 2**20  # bytes of an upload's part; S3 allows 10,000 of them


class _Fetch(Protocol):
    def __call__(
        self, start: int, stop: int, etag: str | None
    ) -> "Future[tuple[bytes, str | None]]": ...


class ObjectReader(io.RawIOBase):
    """Reads an object range by range; while one is being used the next is on its way."""

    def __init__(self, fetch: _Fetch) -> None:
        super().__init__()
        self._fetch = fetch
        self._position = 0
        self._start = 0
        self._data, self._etag = fetch(0, READ_AHEAD, None).result()
        self._next = self._ahead()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            raise io.UnsupportedOperation("the end is not known before it is read")
        self._position = offset + (self._position if whence == io.SEEK_CUR else 0)
        return self._position

    def readinto(self, buffer: Any) -> int:
        self._load()
        inside = self._position - self._start
        piece = memoryview(self._data)[inside : inside + len(buffer)]
        buffer[: len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def close(self) -> None:
        if not self.closed and self._next is not None:
            self._next.cancel()
        super().close()

    def _load(self) -> None:
        """Hold the range of the position, unless it lies behind the end."""
        start = self._position - self._position % READ_AHEAD
        if start == self._start:
            return
        if start == self._start + READ_AHEAD:
            if self._next is None:
                return
            arriving = self._next
        else:
            if self._next is not None:
                self._next.cancel()
            arriving = self._fetch(start, start + READ_AHEAD, self._etag)
        self._start, (self._data, _) = start, arriving.result()
        self._next = self._ahead()

    def _ahead(self) -> "Future[tuple[bytes, str | None]] | None":
        if len(self._data) < READ_AHEAD:  # the end
            return None
        start = self._start + READ_AHEAD
        return self._fetch(start, start + READ_AHEAD, self._etag)


class _Upload(Protocol):
    def begin(self) -> None: ...
    def send(self, number: int, data: bytes) -> "Future[Any]": ...
    def complete(self, answers: list[Any], num_bytes: int) -> None: ...
    def put(self, data: bytes) -> None: ...
    def abort(self) -> None: ...


class ObjectWriter(io.RawIOBase):
    """Writes an object part by part; while one is being filled the one before is on its way."""

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
        """Make the object stand under its name."""
        if not self._parts:
            self._upload.put(bytes(self._buffer))
            return
        if self._buffer:
            self._send()
        self._upload.complete([part.result() for part in self._parts], self._num_bytes)

    def discard(self) -> None:
        """Leave nothing behind."""
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
