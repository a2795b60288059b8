"""Safe reading of files named by a data set: regular, of bounded size, below a given folder.

Tables and lists of a data set are untrusted. They may name a device, a pipe that nobody writes to,
or a private file.
"""

import os
import stat
from functools import lru_cache
from pathlib import Path

from xmodal.data.limits import MAX_SAMPLE_BYTES
from xmodal.errors import UserError


class Skipped(Exception):
    """Unusable item: `cause` is one of a few, `detail` describes the instance."""

    def __init__(self, cause: str, detail: str = ""):
        super().__init__(cause, detail)
        self.cause = cause
        self.detail = detail


def read_file(path: Path, below: Path | None = None, limit: int = MAX_SAMPLE_BYTES) -> bytes:
    """Return the bytes of a regular file of at most `limit` bytes.

    Raises `Skipped` for anything else, and for a file that resolves to a place outside of the
    folder `below`.
    """
    try:
        if below is not None and not _true_place(path).is_relative_to(_resolved(below)):
            raise Skipped(OUTSIDE, str(path))
        # A device is not even opened: that alone may do something.
        if not stat.S_ISREG(path.stat().st_mode):
            raise Skipped("not a regular file", str(path))
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            data = file.read(limit + 1)
    except FileNotFoundError:
        raise Skipped("missing", str(path)) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = getattr(error, "strerror", None) or error
        raise Skipped("cannot be read", f"{path}: {reason}") from None
    if len(data) > limit:
        raise Skipped(f"file over {limit:,} bytes", str(path))
    return data


OUTSIDE = "path leads out of the folder (anywhere=true allows it)"


def read_text_file(path: Path) -> bytes:
    """Return the bytes of a file of the data set; raises `UserError` if it cannot be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UserError(f"{path} is not a regular file")
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _true_place(path: Path) -> Path:
    # Links among the folders are followed once a folder; the file itself is looked at each time.
    if path.name in ("", ".."):
        return path.resolve()
    place = _resolved(path.parent) / path.name
    return place.resolve() if place.is_symlink() else place


@lru_cache(4096)
def _resolved(folder: Path) -> Path:
    return folder.resolve()
