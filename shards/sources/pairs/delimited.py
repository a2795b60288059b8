"""Rows of .csv and .tsv: whether quotes are syntax or text, and rows that an open one swallows.

Where quotes are syntax, one that is never meant to open a cell takes the following rows into it,
up to the next quote. Such a cell holds whole rows, and is told by that. In .tsv, which most
programs write without quoting, quotes are text.
"""

import csv
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from shards.sources.pairs.lines import MAX_CHARACTERS, open_lines
from xmodal.errors import UserError

QUOTES = ("auto", "none", "double")
_LINE_BREAK = re.compile(r"\r\n|\r|\n")

Record = tuple[int, dict[str, str] | tuple[str, str]]


def read_delimited(table: Path, quotes: str, notes: list[str]) -> Iterator[Record]:
    """Read the rows of a table by the names in its first line.

    With `quotes` "double" a cell may stand within double quotes, with "none" they are text, and
    "auto" is "none" where tabs divide the cells. Raises `UserError` for quotes that are never
    closed.
    """
    csv.field_size_limit(MAX_CHARACTERS)
    with open_lines(table) as lines:
        number, first = next(lines, (1, ""))
        delimiter = _delimiter(table, first or "")
        is_quoted = quotes == "double" or (quotes == "auto" and delimiter != "\t")
        reader = csv.reader(
            (_whole(table, *line) for line in chain([(number, first)], lines)),
            delimiter=delimiter,
            quoting=csv.QUOTE_MINIMAL if is_quoted else csv.QUOTE_NONE,
            strict=True,
        )
        rows = _Rows(table, delimiter, judge=quotes == "auto" and is_quoted)
        yield from rows.read(reader)
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


class _Rows:
    """The rows of a table, and how many of their cells stand within quotes that are text."""

    def __init__(self, table: Path, delimiter: str, *, judge: bool) -> None:
        self.table, self.delimiter, self.judge = table, delimiter, judge
        self.num_quoted = self.first_quoted = 0

    def read(self, reader: Any) -> Iterator[Record]:
        line = 0  # that the last whole row ends on
        try:
            names: list[str] = next(reader, [])
            self._refuse_twice(names)
            line = reader.line_num
            for cells in reader:
                line = reader.line_num
                if cells:  # a line that is not blank
                    yield line, self._record(names, cells, line)
        except csv.Error as error:
            raise UserError(
                f"line {line + 1} of {self.table} begins a row that is broken "
                f"({error}): close its quotes and double those within, or read quotes as text by "
                "quotes=none"
            ) from None

    def _refuse_twice(self, names: Sequence[str]) -> None:
        twice = [name for name in names if name and names.count(name) > 1]
        if twice:
            raise UserError(f"{self.table} has two columns {twice[0]}: rename one of them")

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
        """Tell whether a cell is the end of a row, whole rows, and the beginning of one."""
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
