"""Rows of .csv and .tsv, with detection of quotes that swallow rows.

If quotes are syntax, a stray quote at the start of a cell takes the following rows into it, up to
the next quote. Such a cell contains whole rows and is detected by them. In .tsv, which most
programs write without quoting, quotes are text.
"""

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from shards.sources.pairs.lines import MAX_CHARACTERS, open_lines
from xmodal.errors import UserError

QUOTES = ("auto", "none", "double")
_LINE_BREAK = re.compile(r"\r\n|\r|\n")

Record = tuple[int, dict[str, str] | tuple[str, str]]


def read_delimited(
    table: Path, quotes: str, notes: list[str], check: Callable[[Sequence[str]], object]
) -> Iterator[Record]:
    """Read the rows of a table by the column names in its first line, checked by `check`.

    With `quotes` "double" a cell may be in double quotes, with "none" quotes are text; "auto" is
    "none" if tabs separate the cells. Raises `UserError` for quotes that are never
    closed.
    """
    csv.field_size_limit(MAX_CHARACTERS)
    with open_lines(table) as lines:
        number, first = next(lines, (1, ""))
        delimiter = _delimiter(table, first or "")
        is_quoted = quotes == "double" or (quotes == "auto" and delimiter != "\t")
        whole = (_whole(table, *line) for line in chain([(number, first)], lines))
        reader: Any = csv.reader(whole, delimiter=delimiter, strict=True)
        if not is_quoted:
            reader = _Unquoted(whole, delimiter)
        rows = _Rows(table, delimiter, judge=quotes == "auto" and is_quoted)
        yield from rows.read(reader, check)
        if not is_quoted and rows.num_quoted:
            notes.append(
                f"{table.name} has {rows.num_quoted:,} cells within double quotes (line "
                f"{rows.first_quoted:,} the first), which are read as text: quotes=double removes "
                "them"
            )


def _delimiter(table: Path, header: str) -> str:
    if not header.strip():
        raise UserError(f"the first line of {table} is empty: it names the columns")
    if "\0" in header:
        raise UserError(f"the first line of {table} has a NUL in it: save the table as UTF-8")
    if table.suffix.lower() != ".tsv":
        return max(",;\t|", key=header.count)
    if "\t" not in header and "," in header:
        raise UserError(
            f"the first line of {table} has commas and no tab: rename it to .csv if commas divide "
            "its cells"
        )
    return "\t"


def _whole(table: Path, number: int, line: str | None) -> str:
    if line is None:
        raise UserError(f"line {number:,} of {table} is over {MAX_CHARACTERS:,} characters")
    return line


class _Unquoted:
    """The cells of lines without quoting, with the part of `csv.reader` that is used of it.

    That one takes a carriage return within a line for its end.
    """

    def __init__(self, lines: Iterator[str], delimiter: str) -> None:
        self.lines, self.delimiter, self.line_num = lines, delimiter, 0

    def __iter__(self) -> "_Unquoted":
        return self

    def __next__(self) -> list[str]:
        line = next(self.lines).rstrip("\r\n")
        self.line_num += 1
        return line.split(self.delimiter) if line else []


class _Rows:
    """The rows of a table, and how many of their cells stand within quotes that are text."""

    def __init__(self, table: Path, delimiter: str, *, judge: bool) -> None:
        self.table, self.delimiter, self.judge = table, delimiter, judge
        self.num_quoted = self.first_quoted = 0

    def read(self, reader: Any, check: Callable[[Sequence[str]], object]) -> Iterator[Record]:
        line = 0  # that the last whole row ends on
        try:
            names: list[str] = next(reader, [])
            check(names)
            line = reader.line_num
            for cells in reader:
                line = reader.line_num
                if cells:  # a line that is not blank
                    yield line, self._record(names, cells, line)
        except csv.Error as error:
            what = str(error).partition(" - ")[0]  # behind it csv's advice to programmers
            raise UserError(
                f"line {line + 1} of {self.table} begins a row that is broken "
                f"({what}): close its quotes and double those within, or read quotes as text by "
                "quotes=none"
            ) from None

    def _record(
        self, names: Sequence[str], cells: Sequence[str], line: int
    ) -> dict[str, str] | tuple[str, str]:
        if any(map(_is_within_quotes, cells)):
            self.num_quoted += 1
            self.first_quoted = self.first_quoted or line
        if len(cells) != len(names):
            return (
                "row of another length than the header",
                f"{len(cells):,} cells, {len(names):,} columns",
            )
        if self.judge and any(self._holds_rows(cells, at) for at in range(len(cells))):
            return (
                "cell that holds whole rows, as after an open quote (quotes=none reads quotes as "
                "text, quotes=double trusts them)",
                "",
            )
        if any("\0" in cell for cell in cells):
            return "NUL in a cell", ""
        return dict(zip(names, cells, strict=True))

    def _holds_rows(self, cells: Sequence[str], at: int) -> bool:
        """Return True if a cell is the end of a row, whole rows, and the beginning of one."""
        if len(cells) < 2 or not _LINE_BREAK.search(cells[at]):
            return False
        first, *middle, last = _LINE_BREAK.split(cells[at])
        after = len(cells) - 1 - at
        return (
            first.count(self.delimiter) >= after
            and last.count(self.delimiter) >= at
            and all(not one or one.count(self.delimiter) >= len(cells) - 1 for one in middle)
        )


def _is_within_quotes(cell: str) -> bool:
    inner = cell[1:-1]
    return len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', "")
