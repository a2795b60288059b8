"""Run lock: only one process at a time may write in a folder.

This is not done by filelock, which uses flock: that does not interact with the POSIX locks of
earlier versions, and on file systems without locks filelock falls back to a file that a killed
process leaves behind. The name of the owner, the waiting time and the error messages would need
code of our own in any case.
"""

import fcntl
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from xmodal.activity import activity
from xmodal.atomic_files import open_itself
from xmodal.distributed.rendezvous import node_name
from xmodal.errors import UserError
from xmodal.runs.restarts import this_start
from xmodal.runs.run import LOCK

SECONDS = 20  # enough for an earlier process that is ending
# A lost node keeps its locks on a shared file system longer.
SECONDS_OF_LOST = 100


def acquire_run_lock(folder: Path, what: str) -> IO[str]:
    """Lock a folder and return the open lock file; closing it releases the lock.

    Raises `UserError`, with the name `what`, if another process keeps the lock.
    """
    start = this_start()
    until = time.monotonic() + (SECONDS_OF_LOST if start["restart"] else SECONDS)
    file = _opened(folder, what)
    with activity(f"waiting for the lock of {what}"):
        # POSIX locks are not inherited by forked processes, and NFS supports them.
        while not _locked(file):
            if time.monotonic() > until:
                file.seek(0)
                raise UserError(
                    f"{what} is in use by {file.read().strip() or 'another process'}: wait until "
                    "it ends, or name another folder"
                )
            time.sleep(1)
    job = f", job {start['job']}" if start["job"] else ""
    with suppress(OSError):  # a full disk: the lock is valid all the same
        file.truncate(0)
        file.write(f"process {os.getpid()} on {node_name()}{job}")
        file.flush()
    return file


def _opened(folder: Path, what: str) -> IO[str]:
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{what} cannot be made a folder: {error.strerror or error}; name another folder"
        ) from None
    try:
        return open_itself(path, "a+")
    except OSError as error:
        raise UserError(
            f"{path} cannot be written: {error.strerror or error}; move away what is there, or "
            "name another folder"
        ) from None


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError as error:
        raise UserError(
            f"{file.name} cannot be locked: {error.strerror}; name a folder on a file system that "
            "supports locks"
        ) from None
    return True
