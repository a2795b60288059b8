"""Folder on a local disk for files that only one process reads, and only while it lives."""

import fcntl
import os
import shutil
import weakref
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp
from typing import IO

from xmodal.atomic_files import open_itself
from xmodal.distributed.rendezvous import node_name
from xmodal.errors import UserError

PREFIX = "xmodal-state-"
OWNER = "process"  # file in a folder that its process locks; it has the name of the node


class LocalFolder:
    """New folder in another one, removed by `close` or at the end of the process.

    What a killed process left is removed by the next one of its node there. Raises `UserError`
    where a folder cannot be made, or the disk has less than `size` bytes free.
    """

    def __init__(self, parent: Path, size: int, key: str) -> None:
        try:
            with open_itself(parent / f"{PREFIX}lock", "a") as everyone:
                fcntl.flock(everyone, fcntl.LOCK_EX)  # until it is closed
                for folder in parent.glob(f"{PREFIX}*/"):
                    _remove_abandoned(folder)
                free = shutil.disk_usage(parent).free
                if free < size:
                    raise UserError(
                        f"{key}={parent} needs {size / 1e9:,.1f} GB a node and has "
                        f"{free / 1e9:,.1f} GB free; free some, or name a folder on another disk"
                    )
                self.path = Path(mkdtemp(prefix=PREFIX, dir=parent))
                self._lock = open_itself(self.path / OWNER, "w")
                fcntl.flock(self._lock, fcntl.LOCK_EX)
                print(node_name(), file=self._lock, flush=True)
        except OSError as error:
            raise UserError(
                f"{key}={parent} cannot be written: {error.strerror}; name a folder on a disk of "
                "each node"
            ) from None
        self._finalizer = weakref.finalize(self, _remove, self.path, self._lock, os.getpid())

    def close(self) -> None:
        """Remove the folder."""
        self._finalizer()


def _remove(folder: Path, lock: IO[str], process: int) -> None:
    if os.getpid() == process:  # not a fork of it
        shutil.rmtree(folder, ignore_errors=True)
        lock.close()


def _remove_abandoned(folder: Path) -> None:
    """Remove a folder whose process, on this node, is no more. Any other folder stays."""
    if folder.is_symlink():
        return
    # The owner may end at this moment, and its folder with it.
    with suppress(FileNotFoundError, BlockingIOError), open_itself(folder / OWNER, "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if file.read().strip() == node_name():
            shutil.rmtree(folder, ignore_errors=True)
