"""Finished runs that are started again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xmodal.assembly.finished import finished_lines
from xmodal.assembly.recipe import Recipe
from xmodal.runs.progress import Progress
from xmodal.runs.run import Run

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def run(tmp_path: Path, make_recipe: MakeRecipe) -> Run:
    run = Run(tmp_path / "run")
    run.create(make_recipe())
    return run


def lines_of(run: Run, recipe: Recipe) -> list[str]:
    """Return the lines of a run that went to its end."""
    timeline = recipe.timeline(80)
    return finished_lines(run, recipe, Progress(step=timeline.total), timeline)


@pytest.mark.parametrize(
    "changed",
    [
        {"run": "moved"},
        {"data": {"s3": {"endpoint": "http://elsewhere"}}},
        {"checkpoints": {"mirror": "s3://bucket/copies"}},
    ],
)
def test_keys_that_a_finished_run_still_uses_may_change(
    changed: dict[str, Any], run: Run, make_recipe: MakeRecipe
) -> None:
    assert len(lines_of(run, make_recipe(**changed))) == 1


def test_other_keys_are_reported_to_have_no_effect(run: Run, make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(
        data={"workers": 1, "s3": {"endpoint": "http://elsewhere"}},
        checkpoints={"keep_last": 5, "mirror": "s3://bucket/copies"},
    )
    first, warning = lines_of(run, recipe)
    steps = recipe.timeline(80).total
    assert first.startswith(f"Finished: step {steps} of {steps}.")
    assert "the new data.workers, checkpoints.keep_last has no effect" in warning
