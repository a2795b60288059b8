"""The frontier of MITE's sweep: which trials are on it, and how they are shown."""

from pathlib import Path

import pytest

from benchmarks.mite_frontier import (
    PENALTY,
    PROBE,
    RSUM,
    WEIGHT,
    draw,
    frontier,
    read_points,
    table,
)
from xmodal.assembly.recipe import read_recipe
from xmodal.errors import UserError
from xmodal.tuning.journal import Journal
from xmodal.tuning.space import read_space

POINTS = [
    {WEIGHT: weight, PENALTY: penalty, RSUM: rsum, PROBE: probe}
    for weight, penalty, rsum, probe in (
        (0, 3, 250.0, 90.0),
        (1, 3, 248.0, 60.0),
        (1, 0, 240.0, 75.0),
        (10, 3, 230.0, 55.0),
    )
]


def test_a_trial_that_another_is_above_in_both_is_not_on_the_frontier() -> None:
    assert frontier(POINTS) == [POINTS[0], POINTS[1], POINTS[3]]
    lines = table(POINTS)
    assert lines[2:] == [
        "| frontier | 0 | 3 | 250.0 | 90.0 |",
        "| frontier | 1 | 3 | 248.0 | 60.0 |",
        "|  | 1 | 0 | 240.0 | 75.0 |",
        "| frontier | 10 | 3 | 230.0 | 55.0 |",
    ]


def test_trials_that_are_over_are_read_and_drawn(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no trial of it is over"):
        read_points(tmp_path)
    journal = Journal(tmp_path / "journal.jsonl")
    for number, point in enumerate(POINTS):
        name = f"{number:03}"
        values = {key: point[key] for key in (WEIGHT, PENALTY)}
        journal.add(name, {"values": values})
        (tmp_path / "trials" / name).mkdir(parents=True)
        row = f'{{"step": 9, "stage": "s", "{RSUM}": {point[RSUM]}, "{PROBE}": {point[PROBE]}}}\n'
        (tmp_path / "trials" / name / "metrics.jsonl").write_text(row)
        if number:
            journal.add(name, {"end": "finished"})
    assert read_points(tmp_path) == POINTS[1:]
    draw(POINTS, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_the_space_fits_the_recipe() -> None:
    folder = Path(__file__).parents[2] / "benchmarks"
    recipe = read_recipe(str(folder / "recipes/mite.yaml"), [], folder / "recipes")
    assert WEIGHT in read_space(folder / "spaces/mite.yaml", recipe).space
