"""Where a run's results go: results.json for programs, report/index.html for people."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xmodal.data.manifest import write_atomically
from xmodal.evaluation.report import Example, write_report


def write_results(
    run: Path,
    metrics: Mapping[str, float],
    examples: Sequence[Example],
    *,
    recipe: str,
    history: Sequence[Mapping[str, Any]],
) -> None:
    """Write a run's `results.json`, a flat object of metric name to number, and its report."""
    write_atomically(run / "results.json", json.dumps(dict(metrics), indent=1) + "\n")
    write_report(run, run.name, metrics, examples, history, recipe)


def read_results(run: Path) -> dict[str, float]:
    """Return the metrics that were last written; none where nothing was measured."""
    path = run / "results.json"
    return json.loads(path.read_text()) if path.is_file() else {}
