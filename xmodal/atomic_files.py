"""Atomic writing of files, never through a symbolic link."""

import os
from pathlib import Path
from typing import IO, Any


def write_atomically(path: Path, text: str) -> None:
    """Write a text file atomically: to a temporary name, then renamed."""
    write_bytes_atomically(path, text.encode("utf-8", "surrogateescape"))


def write_bytes_atomically(path: Path, data: bytes) -> None:
    """Write a file atomically: to a temporary name, then renamed."""
    part = path.with_name(path.name + ".part")
    try:
        with open_itself(part, "wb") as file:
            file.write(data)
        part.replace(path)
    except OSError as error:  # which names no file where the disk is full
        raise OSError(error.errno, error.strerror, str(path)) from error


def open_itself(path: Path, mode: str, **options: Any) -> IO[Any]:
    """Open a file for writing, never one that a symbolic link points to.

    An untrusted folder may link to any file of the user.
    """
    return open(path, mode, opener=_follow_no_link, **options)


def _follow_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
