"""Rows of tables that name images and say what is said of them."""

import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shards.annotations import read_json, read_lines
from xmodal.errors import UserError

_COLUMNS = {
    "image": (
        "image", "image_path", "filepath", "file_path", "file_name", "filename", "path", "file",
        "img",
    ),
    "caption": ("caption", "captions", "text", "title", "sentence", "description"),
    "label": ("label", "labels", "category", "class"),
    "image_id": ("image_id",),
    "split": ("split",),
}  # fmt: skip
_NEEDED = ("image", "caption")
_MAX_CHARACTERS = 10_000_000  # of a field
_HALF_PAIR = re.compile("[\ud800-\udfff]")

# A record is a row by the names of its columns; a text says why the row is none.
_Records = Iterator[tuple[int, Mapping[str, Any] | str]]


@dataclass(frozen=True)
class Row:
    """A row: the values of its columns by what they are (image, caption, …), or its fault.

    `number` is the line in the file it ends on, in a .json or .parquet that of the row, from 1.
    """

    number: int
    values: Mapping[str, Sequence[str]] = field(default_factory=dict)
    fault: str = ""


def read_rows(table: Path, asked: Mapping[str, str]) -> Iterator[Row]:
    """Read a table; `asked` names its columns where they are not to be found by their names.

    Raises `UserError` where the file is none of its kind or lacks a column.
    """
    columns: dict[tuple[str, ...], dict[str, str]] = {}
    for number, record in _READERS[table.suffix.lower()](table):
        if isinstance(record, str):
            yield Row(number, fault=record)
            continue
        names = tuple(record)
        if names not in columns:  # those of JSON may differ from row to row
            columns[names] = _find_columns(names, asked)
            if len(columns) == 1:
                _refuse_lacking(columns[names], names, asked, table)
        yield _row(number, record, columns[names])


def _row(number: int, record: Mapping[str, Any], columns: Mapping[str, str]) -> Row:
    for what in _NEEDED:
        if what not in columns:
            return Row(number, fault=f"no {what}")
    values = {what: _texts(record[name]) for what, name in columns.items()}
    is_broken = any(_has_half_pairs(text) for texts in values.values() for text in texts)
    return Row(number, values, "not Unicode" if is_broken else "")


def _refuse_lacking(
    columns: Mapping[str, str], names: Sequence[str], asked: Mapping[str, str], table: Path
) -> None:
    for what in _COLUMNS:
        if what not in columns and (what in _NEEDED or asked[what]):
            raise UserError(
                f"{table} has no column {asked[what] or f'for the {what}'}; it has "
                f"{', '.join(names)}: say which one it is by {what}=NAME"
            )


def _find_columns(names: Sequence[str], asked: Mapping[str, str]) -> dict[str, str]:
    by_plain_name = {name.strip().casefold(): name for name in reversed(names)}
    columns: dict[str, str] = {}
    for what, usual in _COLUMNS.items():
        for name in [asked[what]] if asked[what] else usual:
            if name.casefold() in by_plain_name:
                columns.setdefault(what, by_plain_name[name.casefold()])
    return columns


def _texts(value: Any) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [_text(each) for each in values] or [""]


def _text(value: Any) -> str:
    # Pandas writes what is missing as not a number.
    return "" if value is None or value != value else str(value).strip()


def _has_half_pairs(text: str) -> bool:
    return _HALF_PAIR.search(text) is not None


def _read_csv(table: Path) -> _Records:
    csv.field_size_limit(_MAX_CHARACTERS)
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            delimiter = "\t" if table.suffix.lower() == ".tsv" else max(",;\t", key=header.count)
            file.seek(0)
            yield from _read_delimited(
                csv.DictReader(file, delimiter=delimiter, strict=True), table
            )
    except UnicodeDecodeError:
        read_lines(table)  # says which line it is
        raise


def _read_delimited(reader: csv.DictReader, table: Path) -> _Records:
    try:
        for record in reader:
            if None in record or None in record.values():
                yield reader.line_num, "row of another length than the header"
            else:
                yield reader.line_num, record
    except csv.Error as error:
        raise UserError(
            f"line {reader.line_num + 1} of {table} begins a row that is broken ({error}): close "
            "its quotes, and double those within"
        ) from None


def _read_jsonl(table: Path) -> _Records:
    try:
        with table.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, _read_object(line)
    except UnicodeDecodeError:
        read_lines(table)
        raise


def _read_object(line: str) -> Mapping[str, Any] | str:
    try:
        record = json.loads(line)
    except ValueError:
        return "broken JSON"
    return record if isinstance(record, dict) else "no JSON object"


def _read_json_list(table: Path) -> _Records:
    records = read_json(table)
    if not isinstance(records, list):
        raise UserError(f"{table} is no list of objects")
    for number, record in enumerate(records, 1):
        yield number, record if isinstance(record, dict) else "no JSON object"


def _read_parquet(table: Path) -> _Records:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(table)
        # Images within the table would be read for nothing: what is looked for are their paths.
        names = [each.name for each in file.schema_arrow if not _is_heavy(each.type)]
        number = 0
        for batch in file.iter_batches(columns=names):
            for record in batch.to_pylist():
                number += 1
                yield number, record
    except pa.ArrowException as error:
        raise UserError(f"{table} cannot be read: {error}") from None


def _is_heavy(kind: Any) -> bool:
    from pyarrow import types

    return types.is_struct(kind) or types.is_binary(kind) or types.is_large_binary(kind)


_READERS: dict[str, Callable[[Path], _Records]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_jsonl,
    ".json": _read_json_list,
    ".parquet": _read_parquet,
}
SUFFIXES = tuple(_READERS)
