"""Lines of a table: UTF-8, of bounded length."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from xmodal.errors import UserError

MAX_CHARACTERS = 10_000_000  # of a line, and of a cell
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


@contextmanager
def open_lines(table: Path) -> Iterator[Iterator[tuple[int, str | None]]]:
    """Open a table, and give the lines with their numbers from 1; None is one that is too long.

    Raises `UserError` for what is not UTF-8, which the line is named of.
    """
    try:
        with table.open("rb") as raw:
            if raw.read(2) in _UTF16:
                raise UserError(f"{table} is UTF-16 (its first bytes show it): save it as UTF-8")
            first = raw.readline(MAX_CHARACTERS).rstrip(b"\r\n")
        # Where lines end in line feeds, a carriage return within one is part of its text.
        newline = "\r" if b"\r" in first else "\n"
        with table.open(encoding="utf-8-sig", newline=newline) as file:
            yield _numbered(file, newline)
    except UnicodeDecodeError:
        raise UserError(
            f"line {_first_broken(table):,} of {table} is not UTF-8: save the table as UTF-8"
        ) from None
    except OSError as error:
        raise UserError(f"{table} cannot be read: {error.strerror}") from None


def _numbered(file: TextIO, newline: str) -> Iterator[tuple[int, str | None]]:
    number = 0
    while line := file.readline(MAX_CHARACTERS + 1):
        number += 1
        is_long = len(line) > MAX_CHARACTERS
        yield number, None if is_long else line
        while is_long and line and not line.endswith(newline):
            line = file.readline(MAX_CHARACTERS)


def _first_broken(table: Path) -> int:
    with table.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    return number
