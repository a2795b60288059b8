"""Local cache of remote reads, in a folder shared by all processes.

It holds aligned pieces of files, one file each, named by a digest of their origin. All changes
happen under one lock of the file system, which is released when a process ends in any way.
Incomplete pieces found under the lock are remains of killed processes.
"""

import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any

from xmodal.data.storage import Storage
from xmodal.errors import UserError

PIECE = 8 * 2**20  # bytes
_LOCK, _PART = "cache.lock", "cache.part"
_OURS = re.compile(rf"[0-9a-f]{{40}}\.piece|{re.escape(_LOCK)}|{re.escape(_PART)}")
_END = b"\x00whole\x01\n"  # ends a piece; what a crash of the machine has cut lacks it


class CachedStorage:
    """Storage whose `read` caches what it has read in a folder of at most `limit_bytes`.

    Only reads with both `start` and `stop` are cached. The least recently used pieces are evicted.
    Raises `UserError` if the folder holds anything else.
    """

    def __init__(
        self, storage: Storage, folder: str | Path, limit_bytes: int, piece_bytes: int = PIECE
    ) -> None:
        self.storage, self.folder = storage, Path(folder)
        self.limit_bytes, self.piece_bytes = limit_bytes, piece_bytes
        self.far, self.will_read = storage.far, storage.will_read
        self.list, self.folders, self.identity = storage.list, storage.folders, storage.identity
        self.open, self.create = storage.open, storage.create
        self.write, self.remove = storage.write, storage.remove
        self._identities: dict[str, str] = {}
        self._works = True
        # By process: a child that is forked must not wait for what threads of its parent hold.
        self._arriving: dict[tuple[int, str], Future[bytes]] = {}
        self._locks: dict[int, Lock] = {}
        self._prepare()

    @property
    def say(self) -> Callable[[str], None]:
        return self.storage.say

    @say.setter
    def say(self, say: Callable[[str], None]) -> None:
        self.storage.say = say

    def read(self, url: str, start: int = 0, stop: int | None = None) -> bytes:
        if stop is None:
            return self.storage.read(url, start)
        if url not in self._identities:
            self._identities[url] = self.storage.identity(url)
        size = self.piece_bytes
        firsts = range(start - start % size, stop, size)
        return b"".join(
            self._read_piece(url, first, max(start, first), min(stop, first + size))
            for first in firsts
        )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_arriving": {}, "_locks": {}}

    def _read_piece(self, url: str, first: int, start: int, stop: int) -> bytes:
        """Return bytes of the piece that begins at byte `first`, from the folder if it is there."""
        identity = f"{self._identities[url]} {first} {self.piece_bytes}"
        name = hashlib.sha256(identity.encode()).hexdigest()[:40] + ".piece"
        found = _read_whole(self.folder / name, start - first, stop - first)
        if found is None:
            found = self._fetch(url, first, name)[start - first : stop - first]
        return found

    def _fetch(self, url: str, first: int, name: str) -> bytes:
        """Read a piece from the storage and keep it; threads that want the same one share it."""
        key = (os.getpid(), name)
        mine: Future[bytes] = Future()
        arriving = self._arriving.setdefault(key, mine)
        if arriving is not mine:
            return arriving.result()
        try:
            mine.set_result(self.storage.read(url, first, first + self.piece_bytes))
            self._keep(name, mine.result())
        except BaseException as error:
            if not mine.done():
                mine.set_exception(error)
            raise
        finally:
            del self._arriving[key]
        return mine.result()

    def _keep(self, name: str, data: bytes) -> None:
        if not self._works:
            return
        part = self.folder / _PART
        try:
            with self._locked() as lock:
                num_bytes = len(data) + len(_END)
                held = self._make_room(num_bytes, _counted(lock))
                try:
                    part.write_bytes(data + _END)
                    part.replace(self.folder / name)
                except OSError:
                    part.unlink(missing_ok=True)
                    raise
                _count(lock, held + num_bytes)
        except OSError as error:  # such as a full disk: no reason to stop
            self._works = False
            self.say(f"the cache {self.folder} keeps no more: {error.strerror}")

    def _prepare(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            names = sorted(path.name for path in self.folder.iterdir())
            strangers = [name for name in names if not _OURS.fullmatch(name)]
            if strangers:
                raise UserError(
                    f"{self.folder} is no cache, for it holds {strangers[0]}: name another folder"
                )
            with self._locked() as lock:
                (self.folder / _PART).unlink(missing_ok=True)
                _count(lock, self._make_room(0, None))
        except OSError as error:
            raise UserError(f"the cache {self.folder} cannot be used: {error.strerror}") from None

    def _make_room(self, num_bytes: int, held: int | None) -> int:
        """Remove the least recently used pieces where `num_bytes` more would be too many.

        Returns how many bytes are held then.
        """
        if held is not None and held + num_bytes <= self.limit_bytes:
            return held
        pieces = sorted(
            (found.st_mtime_ns, found.st_size, entry.path)
            for entry in os.scandir(self.folder)
            if entry.name.endswith(".piece") and (found := entry.stat())
        )
        held = sum(size for _, size, _ in pieces)
        if held + num_bytes <= self.limit_bytes:
            return held
        spare = max(num_bytes, self.limit_bytes // 20)  # so as not to look through it every time
        for _, size, path in pieces:
            if held + spare <= self.limit_bytes:
                break
            Path(path).unlink(missing_ok=True)
            held -= size
        return held

    @contextmanager
    def _locked(self) -> Iterator[int]:
        # The system's lock is the process's; its threads need one of their own.
        with self._locks.setdefault(os.getpid(), Lock()):
            lock = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX)
                yield lock
            finally:
                os.close(lock)


def _read_whole(path: Path, start: int, stop: int) -> bytes | None:
    """Return bytes of a piece and mark it as used; None where there is no whole one."""
    with suppress(OSError), path.open("rb", buffering=0) as piece:
        end = os.fstat(piece.fileno()).st_size - len(_END)
        if end >= 0 and os.pread(piece.fileno(), len(_END), end) == _END:
            data = os.pread(piece.fileno(), max(0, min(stop, end) - start), start)
            os.utime(piece.fileno())
            return data
    return None


def _counted(lock: int) -> int | None:
    """Read the recorded size of the folder in bytes; None if it is not recorded yet."""
    text = os.pread(lock, 32, 0)
    return int(text) if text.strip().isdigit() else None


def _count(lock: int, num_bytes: int) -> None:
    os.pwrite(lock, b"%-31d\n" % num_bytes, 0)
