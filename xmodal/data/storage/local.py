"""Files of this machine, or of a file system that it has mounted."""

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import BinaryIO
from uuid import uuid4

from xmodal.errors import UserError

_MAX_OPEN = 256  # files kept open to be read again


class LocalStorage:
    """See `Storage`."""

    far = False

    def __init__(self) -> None:
        self.say: Callable[[str], None] = print  # nothing of a disk is tried again
        self._open: OrderedDict[str, int] = OrderedDict()
        self._lock = Lock()

    def list(self, folder: str) -> dict[str, int]:
        if not Path(folder).is_dir():
            return {}
        sizes = {}
        with os.scandir(folder) as entries:
            for entry in filter(os.DirEntry.is_file, entries):
                with suppress(FileNotFoundError):  # it has been renamed meanwhile
                    sizes[entry.name] = entry.stat().st_size
        return sizes

    def folders(self, folder: str) -> Sequence[str]:
        if not Path(folder).is_dir():
            return []
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir())

    def identity(self, url: str) -> str:
        found = Path(url).stat()
        return f"{Path(url).resolve()} {found.st_size} {found.st_mtime_ns}"

    def read(self, url: str, start: int = 0, stop: int | None = None) -> bytes:
        try:
            if stop is None:
                with Path(url).open("rb") as file:
                    file.seek(start)
                    return file.read()
            with self._lock:
                return os.pread(self._descriptor(url), stop - start, start)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise UserError(f"{url} cannot be read: {error.strerror}") from None

    def will_read(self, url: str, start: int, stop: int) -> None:
        with self._lock, suppress(OSError):
            advice = os.POSIX_FADV_WILLNEED
            os.posix_fadvise(self._descriptor(url), start, stop - start, advice)

    def open(self, url: str) -> BinaryIO:
        return Path(url).open("rb")

    def create(self, url: str) -> AbstractContextManager[BinaryIO]:
        return self._create(url, Path(f"{url}.part"))

    def write(self, url: str, data: bytes) -> None:
        # Several processes may write the same small file at once, but never the same tar.
        with self._create(url, Path(f"{url}.{uuid4().hex}.part")) as file:
            file.write(data)

    @contextmanager
    def _create(self, url: str, part: Path) -> Iterator[BinaryIO]:
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.replace(url)
        except OSError as error:
            raise UserError(f"{url} cannot be written: {error.strerror}") from None
        finally:
            with suppress(OSError):  # there no more, where all went well
                part.unlink()

    def remove(self, url: str) -> None:
        Path(url).unlink()

    def _descriptor(self, url: str) -> int:
        if url not in self._open:
            if len(self._open) >= _MAX_OPEN:
                os.close(self._open.popitem(last=False)[1])
            self._open[url] = os.open(url, os.O_RDONLY | os.O_CLOEXEC)
        self._open.move_to_end(url)
        return self._open[url]

    def __del__(self) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)
