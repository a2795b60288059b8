"""Results of an evaluation in a folder: results.json for programs, report/index.html for people."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from xmodal.atomic_files import write_atomically
from xmodal.errors import UserError
from xmodal.evaluation.per_query import PerQuery
from xmodal.evaluation.report.measured import Measured, identity
from xmodal.evaluation.report.query_file import write_queries
from xmodal.evaluation.report.run_report import Example, write_report
from xmodal.small_files import read_small

FILE = "results.json"
MEASURED, ENDED = "measured", "ended"  # its keys that are no metrics


def write_results(
    folder: Path,
    title: str,
    metrics: Mapping[str, float],
    examples: Sequence[Example],
    measured: Measured,
    *,
    recipe: str,
    history: Sequence[Mapping[str, Any]],
    ended: str | None = None,
    per_query: Sequence[PerQuery] = (),
) -> None:
    """Write `results.json` and the report of an evaluation.

    `results.json` maps the name of each metric to its number, `measured` to the description, and
    `ended` to the reason why the run has ended before its last step, where it has. Results of each
    query go into `queries.safetensors`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    results = {**metrics, MEASURED: asdict(measured)}
    if ended:
        results[ENDED] = ended
    text = json.dumps(results, indent=1) + "\n"
    # First: what is left of a kill between the two belongs to no results, and is not read.
    write_queries(folder, text, per_query)
    write_atomically(folder / FILE, text)
    write_report(folder, title, metrics, examples, history, recipe, measured, ended)


def read_results(folder: Path) -> tuple[dict[str, float], dict[str, Any] | None]:
    """Return the metrics of a folder and their description, None if an earlier version wrote it.

    The metrics are empty where there is no `results.json`, or one of another program.
    """
    path = folder / FILE
    try:
        results = json.loads(read_small(path))
        measured = results.pop(MEASURED, None)
    except (OSError, ValueError, AttributeError, TypeError):
        return {}, None
    numbers = {name: value for name, value in results.items() if isinstance(value, int | float)}
    return numbers, measured if isinstance(measured, dict) else None


def check_folder(folder: Path, measured: Measured) -> None:
    """Raise `UserError` where results must not be written into a folder.

    It may be new, be empty, or hold results of the same measurement, which they replace.
    """
    check_writable(folder)
    if not (folder.exists() and _holds_more(folder)):
        return
    theirs = read_results(folder)[1]
    try:
        same = theirs is not None and identity(theirs) == measured.identity()
    except (KeyError, TypeError):
        same = False
    if not same:
        what = "results of something else" if theirs else "other files"
        raise UserError(f"{folder} holds {what}; name another folder: --output DIR")


def check_writable(folder: Path, option: str = "--output") -> None:
    """Raise `UserError` where a folder for results is none, or this user cannot write in it.

    `option` is the option of the command that names it.
    """
    nearest = next(one for one in (folder, *folder.parents) if one.exists())
    if not nearest.is_dir():
        raise UserError(f"{option} {folder}: {nearest} is a file; name a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UserError(f"{nearest} cannot be written in; name another folder: {option} DIR")


def _holds_more(folder: Path) -> bool:
    """Return whether a folder holds more than the remains of a killed evaluation."""
    return any(path.name != f"{FILE}.part" for path in folder.iterdir())
