"""Reading and repair of a run's metrics.jsonl: one line per logged step or evaluation."""

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

from xmodal.atomic_files import write_atomically
from xmodal.runs.aside import unused
from xmodal.small_files import read_small

Row = dict[str, Any]  # `step`, and numbers or texts by name
_MAX_BYTES = 2**31  # of a run of ten million lines
_TAIL = 2**16  # bytes in which the last line of a file lies


def read_metrics(path: Path) -> tuple[list[Row], list[int]]:
    """Return the measurements of a file, and the numbers of invalid lines.

    An incomplete last line, left by a killed run, is ignored.
    """
    rows: list[Row] = []
    strange: list[int] = []
    lines = read_small(path, _MAX_BYTES).split(b"\n")[:-1] if path.is_file() else []
    for number, line in enumerate(lines, start=1):
        row = _measurement(line)
        if row is None:
            strange.append(number)
        else:
            rows.append(row)
    return rows, strange


def last_row(path: Path) -> Row | None:
    """Return the newest measurement of a file, or None; a run may be writing the file."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        lines = file.read().split(b"\n")[:-1]
    return next(filter(None, map(_measurement, reversed(lines))), None)


def drop_metrics_after(path: Path, step: int, log_every: int) -> list[str]:
    """Remove the lines of steps that a run is about to repeat, and invalid lines.

    Return warnings: for invalid lines, which a copy of the file keeps, for a file that lacks all
    earlier steps, and for a gap of at least `log_every` steps before `step`.
    """
    warnings: list[str] = []
    rows, strange = read_metrics(path)
    if strange:
        copy = unused(path.with_name(f"{path.name}.damaged"))
        shutil.copyfile(path, copy)
        warnings.append(
            f"warning: {path}: {len(strange)} of {len(rows) + len(strange)} lines hold no "
            f"measurement (first: line {strange[0]}) and were dropped; the file as it was is kept "
            f"as {copy.name}"
        )
    if rows and not step:
        last = max(row["step"] for row in rows)
        warnings.append(
            f"warning: no checkpoint is left of the {last} steps in {path}: training starts again"
        )
    rows = [row for row in rows if row["step"] <= step]
    if path.is_file():
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows))
    logged = [0, *sorted({row["step"] for row in rows})]
    usual = max(log_every, *(after - before for before, after in pairwise([*logged, logged[-1]])))
    if logged[-1] + usual <= step:
        warnings.append(
            f"warning: {path} has no lines of steps {logged[-1] + 1} to {step}; its curves have a "
            "gap there"
        )
    return warnings


def _measurement(line: bytes) -> Row | None:
    try:
        row = json.loads(line.decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or type(row.get("step")) is not int:
        return None
    return row if all(isinstance(value, int | float | str) for value in row.values()) else None
