"""Folder on a local disk for files that only one process reads, and only while it lives."""

import fcntl
import shutil
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import IO

from xmodal.atomic_files import open_itself
from xmodal.errors import UserError

_PREFIX = "xmodal-state-"


class LocalFolder:
    """New folder in another one; removed by `close`, or by the next process there after a kill.

    Raises `UserError` where it cannot be made, or the disk has less than `size` bytes free.
    """

    def __init__(self, parent: Path, size: int, key: str) -> None:
        try:
            with open_itself(parent / f"{_PREFIX}lock", "a") as everyone:
                fcntl.flock(everyone, fcntl.LOCK_EX)  # until it is closed
                for folder in parent.glob(f"{_PREFIX}*/"):
                    _remove_abandoned(folder)
                free = shutil.disk_usage(parent).free
                if free < size:
                    raise UserError(
                        f"{key}={parent} needs {size / 1e9:,.1f} GB a node and has "
                        f"{free / 1e9:,.1f} GB free; free some, or name a folder on another disk"
                    )
                self.path = Path(mkdtemp(prefix=_PREFIX, dir=parent))
                self._lock = _locked(self.path)
        except OSError as error:
            raise UserError(
                f"{key}={parent} cannot be written: {error.strerror}; name a folder on a disk of "
                "each node"
            ) from None

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def _locked(folder: Path) -> IO[str]:
    file = open_itself(folder / "lock", "a")
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return file


def _remove_abandoned(folder: Path) -> None:
    """Remove a folder whose process is no more: it had the lock."""
    with suppress(BlockingIOError), _locked(folder):
        shutil.rmtree(folder, ignore_errors=True)
