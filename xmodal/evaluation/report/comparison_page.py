"""The page that compares runs, and its tables in the terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup
from rich.text import Text

from xmodal.atomic_files import write_atomically
from xmodal.evaluation.metrics.bootstrap import LEVEL
from xmodal.evaluation.protocols.registry import measured_by
from xmodal.evaluation.report.comparison import Compared, Difference, Measurement, Table
from xmodal.evaluation.report.curve import Point, overlaid
from xmodal.evaluation.report.disagreements import Disagreements
from xmodal.evaluation.report.page import HERE, render
from xmodal.evaluation.report.run_report import data_uri
from xmodal.evaluation.report.tables import new_table
from xmodal.terminal import console


def write_page(
    path: Path,
    title: str,
    runs: Sequence[Compared],
    tables: Sequence[Table],
    notes: Sequence[str],
    disagreements: Sequence[Disagreements],
) -> None:
    """Write the page, one file that needs nothing beside it."""
    page = render(
        HERE / "comparison.html",
        title,
        runs=runs,
        tables=tables,
        notes=notes,
        curves=_curves(runs),
        disagreements=disagreements,
        level=LEVEL,
        number=number,
        change=change,
        url=_url,
        data_uri=data_uri,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page)


def print_comparison(
    runs: Sequence[Compared], tables: Sequence[Table], notes: Sequence[str], page: Path
) -> None:
    """Print a table a protocol of its first metric, the notes, and the path of the page."""
    shown = console(soft_wrap=True)
    for table in tables:
        cells = table.rows.get(table.headline)
        if cells is None:
            continue
        found = new_table(table.headline)
        for head in ("", "value", "difference", f"{LEVEL} % interval"):
            found.add_column(Text(head), justify="right" if head else "left")
        for run, cell in zip(runs, cells, strict=True):
            found.add_row(Text(run.name), *_cells(cell))
        shown.print(found)
    for line in [*notes, *(note for table in tables for note in table.notes)]:
        shown.print(line, markup=False, highlight=False)
    shown.print(f"report: {page}", markup=False, highlight=False)


def number(value: float) -> str:
    """Return a metric as it is shown."""
    return f"{value:,.1f}" if abs(value) >= 1 else f"{value:.3g}"


def change(difference: Difference) -> str:
    """Return a difference with its interval, as it is shown."""
    if difference.interval is None:
        return f"{difference.value:+.2f}"
    low, high = difference.interval
    return f"{difference.value:+.2f} ({low:+.2f} to {high:+.2f})"


def _cells(cell: Measurement) -> list[str]:
    if cell.value is None:
        return ["not measured", "", ""]
    if cell.difference is None:
        return [number(cell.value), "", ""]
    interval = cell.difference.interval
    between = "" if interval is None else f"{interval[0]:+.2f} to {interval[1]:+.2f}"
    return [number(cell.value), f"{cell.difference.value:+.2f}", between]


def _curves(runs: Sequence[Compared]) -> Mapping[str, Markup]:
    """Return drawings of the loss and of the headline of each protocol that runs have measured."""
    protocols = {name: one for run in runs for name, one in measured_by(run.metrics).items()}
    drawn = [
        f"{name}/{one.headline}"
        for name, one in protocols.items()
        if one.headline in one.higher_is_better
    ]
    drawings = {}
    for key in ["loss", *drawn]:
        lines = {f"smooth line-{n}": _points(run.history, key) for n, run in enumerate(runs)}
        drawings[key] = Markup(overlaid(lines, key))
    return {key: drawing for key, drawing in drawings.items() if drawing}


def _points(history: Sequence[Mapping[str, Any]], key: str) -> list[Point]:
    return [(row["step"], row[key]) for row in history if isinstance(row.get(key), int | float)]


def _url(run: Compared) -> str:
    shards = (run.measured or {}).get("data")
    return str(shards.get("url")) if isinstance(shards, Mapping) else "unknown"
