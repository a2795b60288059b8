"""Recall and modality-invariance of the trials of a sweep of MITE: a table and a figure.

    python -m benchmarks.mite_frontier DIR [--to FILE.png]

benchmarks/spaces/mite.yaml has the command of the sweep. A trial is on the frontier if none has
both a higher rsum and a probe that tells modalities apart less often.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.beside import console
from xmodal.errors import UserError, run_command
from xmodal.runs.metrics_file import read_metrics
from xmodal.tuning.journal import Journal

RSUM, PROBE = "all-captions/rsum", "gap/probe_accuracy"
WEIGHT, PENALTY = "stages.3.losses.adversarial.weight", "method.slope_penalty"
Point = dict[str, Any]  # the values of a trial, RSUM and PROBE


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweep", type=Path, metavar="DIR", help="folder of the sweep")
    parser.add_argument("--to", type=Path, metavar="FILE.png", help="draw the figure there")
    given = parser.parse_args()
    points = read_points(given.sweep)
    print(*table(points), sep="\n")
    if given.to:
        draw(points, given.to)


def read_points(sweep: Path) -> list[Point]:
    """Return the trials that are over, the best recall first."""
    points = []
    for trial in Journal(sweep / "journal.jsonl").trials.values():
        rows, _ = read_metrics(sweep / "trials" / trial.name / "metrics.jsonl")
        measured = [row for row in rows if PROBE in row]
        if trial.end == "finished" and measured:
            last = measured[-1]
            points.append({**trial.values, RSUM: last[RSUM], PROBE: last[PROBE]})
    if not points:
        raise UserError(f"{sweep}: no trial of it is over; run the sweep first")
    return sorted(points, key=lambda point: -float(point[RSUM]))


def frontier(points: Sequence[Point]) -> list[Point]:
    """Return the points, best recall first, that no other is better than in both."""
    kept: list[Point] = []
    for point in points:
        if not kept or point[PROBE] < kept[-1][PROBE]:
            kept.append(point)
    return kept


def table(points: Sequence[Point]) -> list[str]:
    """Return a table in Markdown; points of the frontier are marked."""
    best = frontier(points)
    keys = [key for key in points[0] if key not in (RSUM, PROBE)]
    heads = ["", *(key.removeprefix("method.").split(".", 2)[-1] for key in keys), "rsum", "probe"]
    lines = [heads, ["---"] * len(heads)]
    for point in points:
        values = [str(point[key]) for key in keys]
        mark = "frontier" if point in best else ""
        lines.append([mark, *values, f"{point[RSUM]:.1f}", f"{point[PROBE]:.1f}"])
    return [f"| {' | '.join(line)} |" for line in lines]


def draw(points: Sequence[Point], path: Path) -> None:
    """Draw rsum over the probe's accuracy."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    kinds = {
        "triplets alone (weight 0)": [p for p in points if not p[WEIGHT]],
        "no penalty on the slope": [p for p in points if p[WEIGHT] and not p[PENALTY]],
        "penalty on the slope": [p for p in points if p[WEIGHT] and p[PENALTY]],
    }
    for (label, some), marker in zip(kinds.items(), "sxo", strict=True):
        axis.plot([p[PROBE] for p in some], [p[RSUM] for p in some], marker, label=label)
    best = frontier(points)
    axis.step([p[PROBE] for p in best], [p[RSUM] for p in best], "-", alpha=0.4, where="post")
    axis.axvline(50, ls=":", color="grey")
    axis.set(xlabel="accuracy of the probe, % (50: it cannot tell)", ylabel="rsum")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=120)
    console.print(f"wrote {path}")


if __name__ == "__main__":
    run_command(main)
