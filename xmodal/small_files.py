"""Reading of small untrusted files, such as states and settings, within a size limit."""

import os
import stat
from pathlib import Path

from xmodal.errors import UserError

MAX_BYTES = 1 << 28


class UnreadableFileError(UserError, ValueError):
    """File that is too large, or not a regular file.

    A `ValueError` as well, which code that repairs or skips damaged files catches.
    """


def read_small(path: Path, limit: int = MAX_BYTES) -> bytes:
    """Return the bytes of a regular file of at most `limit` bytes.

    Raises `UnreadableFileError` for any other, `OSError` where there is none.
    """
    # A pipe that nobody writes to must not be waited for.
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise UnreadableFileError(f"{path} is not a regular file; remove or restore it")
        data = file.read(limit + 1)
    if len(data) > limit:
        raise UnreadableFileError(f"{path} is over {limit:,} bytes; remove or restore it")
    return data
