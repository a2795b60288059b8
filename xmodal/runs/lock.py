"""A folder that one process alone may write in, for as long as it lives.

Not by filelock, which survives kills and forks as well: it locks by flock, which neither sees nor
is seen by the POSIX locks of runs that an earlier version holds, and where a file system has none,
it falls back to a file that whoever is killed leaves for good. Who holds the folder, how long to
wait, and the line for each fault would have to be written around it all the same.
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

SECONDS = 20  # in which those may end that have been killed or asked to
# A node that is lost keeps its locks on a shared file system longer.
SECONDS_OF_LOST = 100


def acquire_run_lock(folder: Path, what: str) -> IO[str]:
    """Return an open file that keeps others from holding a folder until it is closed.

    Raises `UserError`, by the name `what`, where another process holds it for a while to come.
    """
    start = this_start()
    until = time.monotonic() + (SECONDS_OF_LOST if start["restart"] else SECONDS)
    file = _opened(folder / LOCK)
    with activity(f"waiting for whoever holds {what}"):
        # Of POSIX: processes that are forked do not have it, and NFS knows it.
        while not _locked(file):
            if time.monotonic() > until:
                file.seek(0)
                raise UserError(
                    f"{what} is in use by {file.read().strip() or 'another process'}: wait for its "
                    "end, or name another folder"
                )
            time.sleep(1)
    job = f", job {start['job']}" if start["job"] else ""
    with suppress(OSError):  # a full disk: the lock is had all the same
        file.truncate(0)
        file.write(f"process {os.getpid()} on {node_name()}{job}")
        file.flush()
    return file


def _opened(path: Path) -> IO[str]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
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
            "knows locks"
        ) from None
    return True
