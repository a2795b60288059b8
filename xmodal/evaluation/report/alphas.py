"""Metrics of interpolated weights by alpha: a table, curve.json, and a page with plots."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from markupsafe import Markup

from xmodal.atomic_files import write_atomically
from xmodal.evaluation.protocols.registry import logged_metrics
from xmodal.evaluation.report.curve import line
from xmodal.evaluation.report.measured import Measured
from xmodal.evaluation.report.page import HERE, render
from xmodal.evaluation.report.tables import add_columns, new_table
from xmodal.terminal import console

Rows = Sequence[tuple[float, Mapping[str, float]]]  # alpha, and all metrics


def print_alphas(rows: Rows, page: Path) -> None:
    """Print a table of the headline metrics, and the path of the page."""
    shown = console(soft_wrap=True)
    for name in logged_metrics(rows[0][1]):
        table = new_table(name)
        add_columns(table, "alpha", name.rpartition("/")[2])
        for alpha, metrics in rows:
            table.add_row(f"{alpha:g}", f"{metrics[name]:.2f}")
        shown.print(table)
    shown.print(f"report: {page}", markup=False, highlight=False)


def write_alphas(folder: Path, title: str, models: Sequence[str], rows: Rows, of: Measured) -> Path:
    """Write `curve.json`, with all metrics, and `report/index.html`; return the page's path.

    `models` are those at alpha 0 and 1; `of` describes data and protocols.
    """
    points = [{"alpha": alpha, **metrics} for alpha, metrics in rows]
    curve = {"models": list(models), "measured": asdict(of), "points": points}
    page = folder / "report" / "index.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "curve.json", json.dumps(curve, indent=1) + "\n")
    names = list(logged_metrics(rows[0][1]))
    drawings = {
        name: Markup(line([(alpha, metrics[name]) for alpha, metrics in rows], f"{name} by alpha"))
        for name in names
    }
    content = render(
        HERE / "alphas.html", title, models=models, rows=rows, names=names, drawings=drawings, of=of
    )
    write_atomically(page, content)
    return page
