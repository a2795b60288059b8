"""Rows of tables that name images and say what they show."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shards.sources.pairs.delimited import read_delimited
from shards.sources.pairs.json_rows import read_json_lines, read_json_list
from shards.sources.pairs.parquet import read_parquet
from xmodal.errors import UserError

COLUMNS = {
    "image": (
        "image", "image_path", "filepath", "file_path", "file_name", "filename", "path", "file",
        "img", "jpg", "jpeg", "png", "webp", "image_bytes",
    ),
    "caption": ("caption", "captions", "text", "title", "sentence", "description"),
    "label": ("label", "labels", "category", "class"),
    "image_id": ("image_id",),
    "split": ("split",),
    "by": (),
}  # fmt: skip
_NEEDED = ("image", "caption")
SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")


@dataclass(frozen=True)
class Row:
    """A row: the values of its columns by what they are (image, caption, …), or its fault.

    `number` is the line in the file it ends on, in a .json or .parquet that of the row, from 1.
    """

    number: int
    values: Mapping[str, Any] = field(default_factory=dict)
    fault: str = ""
    detail: str = ""


class Columns:
    """The columns of a table by what they are; `asked` names those that their names do not show."""

    def __init__(self, table: Path, asked: Mapping[str, str]) -> None:
        self.table, self.asked = table, asked
        self._known: dict[tuple[str, ...], dict[str, str]] = {}

    def of(self, names: Sequence[str]) -> dict[str, str]:
        """Find the columns among the names of a row; those of JSON may differ from row to row.

        Raises `UserError` if the first row lacks one that is needed.
        """
        key = tuple(names)
        if key not in self._known:
            self._refuse_twice(key)
            found = self._find(key)
            if not self._known:
                self._refuse_lacking(found, key)
            self._known[key] = found
        return self._known[key]

    def _find(self, names: Sequence[str]) -> dict[str, str]:
        found = {name.strip().casefold(): name for name in reversed(names)}
        found |= {name: name for name in names}  # exactly so, before all that differ in case
        columns: dict[str, str] = {}
        for what, usual in COLUMNS.items():
            for name in [self.asked[what]] if self.asked[what] else usual:
                column = found.get(name, found.get(name.strip().casefold()))
                if column is not None:
                    columns.setdefault(what, column)
        return columns

    def _refuse_twice(self, names: Sequence[str]) -> None:
        twice = [name for name in names if name and names.count(name) > 1]
        if twice:
            raise UserError(f"{self.table} has two columns {twice[0]}: rename one of them")

    def _refuse_lacking(self, found: Mapping[str, str], names: Sequence[str]) -> None:
        for what in COLUMNS:
            if what not in found and (what in _NEEDED or self.asked[what]):
                wanted = self.asked[what] or f"for the {what}"
                raise UserError(
                    f"{self.table} has no column {wanted}; it has {', '.join(names) or 'none'}: "
                    f"name one of them by {what}=NAME"
                )


def read_rows(
    table: Path, asked: Mapping[str, str], quotes: str, notes: list[str]
) -> Iterator[Row]:
    """Read a table; `asked` names its columns where they are not to be found by their names.

    `quotes` are those of .csv and .tsv; what the reader should look at is added to `notes`. Raises
    `UserError` where the file is none of its kind or lacks a column.
    """
    columns = Columns(table, asked)
    for number, record in _records(table, columns, quotes, notes):
        if isinstance(record, tuple):
            yield Row(number, fault=record[0], detail=record[1])
            continue
        found = columns.of(tuple(record))
        lacking = [what for what in _NEEDED if what not in found]
        if lacking:
            yield Row(number, fault=f"no {lacking[0]}")
        else:
            yield Row(number, {what: record[name] for what, name in found.items()})


def _records(
    table: Path, columns: Columns, quotes: str, notes: list[str]
) -> Iterator[tuple[int, Mapping[str, Any] | tuple[str, str]]]:
    """Read the records by the names of their columns; a pair of texts is why a row is none."""
    match table.suffix.lower():
        case ".csv" | ".tsv":
            return read_delimited(table, quotes, notes, columns.of)
        case ".jsonl":
            return read_json_lines(table)
        case ".json":
            return read_json_list(table)
        case _:
            return read_parquet(table, columns.of)
