"""Local files, including mounted file systems."""

import errno
import os
import resource
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

from xmodal.data.recent import Recent
from xmodal.errors import UserError

_MAX_OPEN = 256  # files that a process keeps open to be read again
_ENOUGH = 8192  # descriptors: for the files kept open and all else, sockets and pipes of workers


class _OpenFile:
    """File that is closed after its last reader."""

    def __init__(self, path: str) -> None:
        self.descriptor = _open_regular(path)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            os.close(self.descriptor)


@cache
def _open_files() -> Recent[_OpenFile]:
    """Return the files that all storages of this process keep open, once there is room for them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < _ENOUGH:
        soft = _ENOUGH if hard == resource.RLIM_INFINITY else min(_ENOUGH, hard)
        with suppress(ValueError, OSError):  # where a system does not let it be raised
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return Recent(_MAX_OPEN if soft == resource.RLIM_INFINITY else min(_MAX_OPEN, soft // 4))


class LocalStorage:
    """See `Storage`."""

    far = False

    def __init__(self) -> None:
        self.say: Callable[[str], None] = print  # nothing of a disk is tried again

    def list(self, folder: str) -> dict[str, int]:
        sizes = {}
        for entry in filter(os.DirEntry.is_file, _entries(folder)):
            with suppress(FileNotFoundError):  # it has been renamed meanwhile
                sizes[entry.name] = entry.stat().st_size
        return sizes

    def folders(self, folder: str) -> Sequence[str]:
        return sorted(entry.name for entry in _entries(folder) if entry.is_dir())

    def identity(self, url: str) -> str:
        found = Path(url).stat()
        return f"{Path(url).resolve()} {found.st_size} {found.st_mtime_ns}"

    def read(self, url: str, start: int = 0, stop: int | None = None) -> bytes:
        try:
            if stop is None:
                with self.open(url) as file:
                    file.seek(start)
                    return file.read()
            kept = self._opened(url)
            return os.pread(kept.descriptor, stop - start, start)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise UserError(f"{url} cannot be read: {error.strerror}") from None

    def will_read(self, url: str, start: int, stop: int) -> None:
        with suppress(OSError):
            file = self._opened(url)
            os.posix_fadvise(file.descriptor, start, stop - start, os.POSIX_FADV_WILLNEED)

    def open(self, url: str) -> BinaryIO:
        return open(url, "rb", opener=_open_regular)

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

    def _opened(self, url: str) -> _OpenFile:
        files = _open_files()
        try:
            return files.get(self, url, lambda: _OpenFile(url))
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            files.clear()  # others than this cache have taken the rest
            return files.get(self, url, lambda: _OpenFile(url))


def _open_regular(path: str, flags: int = os.O_RDONLY) -> int:
    """Return a descriptor of a file; `OSError` for a pipe, which may never be written to, or a
    device, which may never end.
    """
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # of a folder the system itself says it
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file", path)
    return descriptor


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """Return what is in a folder; nothing where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError) as error:  # no permission, or a name that no file can have
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{folder} cannot be read: {reason}") from None
