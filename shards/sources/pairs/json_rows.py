"""Rows of .jsonl, an object a line, and of .json, a list of objects."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from shards.annotations import read_json
from shards.sources.pairs.lines import MAX_CHARACTERS, open_lines
from xmodal.errors import UserError

Record = tuple[int, Mapping[str, Any] | tuple[str, str]]


def read_json_lines(table: Path) -> Iterator[Record]:
    """Read the objects; a line that holds none is a fault of its own."""
    with open_lines(table) as lines:
        for number, line in lines:
            if line is None:
                yield number, (f"line over {MAX_CHARACTERS:,} characters", "")
            elif line.strip():
                yield number, _read_object(line)


def _read_object(line: str) -> Mapping[str, Any] | tuple[str, str]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        return "broken JSON", str(error)
    return record if isinstance(record, dict) else ("no JSON object", "")


def read_json_list(table: Path) -> Iterator[Record]:
    """Read the objects; raises `UserError` if the file does not hold a list."""
    try:
        records = read_json(table)
    except UserError as error:
        if "Extra data: line 2" in str(error):
            raise UserError(
                f"{table} has more after its first line: rename it to .jsonl if it has an object "
                "a line"
            ) from None
        raise
    if not isinstance(records, list):
        keys = f", but an object with {', '.join(records)}" if isinstance(records, dict) else ""
        raise UserError(f"{table} is no list of objects{keys}"[:500])
    for number, record in enumerate(records, 1):
        yield number, record if isinstance(record, dict) else ("no JSON object", "")
