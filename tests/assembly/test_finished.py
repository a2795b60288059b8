"""Finished runs that are started again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xmodal.assembly.finished import finished_lines
from xmodal.assembly.recipe import Recipe
from xmodal.runs.run import Run

MakeRecipe = Callable[..., Recipe]


@pytest.fixture
def run(tmp_path: Path, make_recipe: MakeRecipe) -> Run:
    run = Run(tmp_path / "run")
    run.create(make_recipe())
    return run


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
    assert len(finished_lines(run, make_recipe(**changed), 5)) == 1


def test_other_keys_are_reported_to_have_no_effect(run: Run, make_recipe: MakeRecipe) -> None:
    recipe = make_recipe(
        data={"workers": 1, "s3": {"endpoint": "http://elsewhere"}},
        checkpoints={"keep_last": 5, "mirror": "s3://bucket/copies"},
    )
    first, warning = finished_lines(run, recipe, 5)
    assert first.startswith("Finished: step 5 of 5.")
    assert "the new data.workers, checkpoints.keep_last has no effect" in warning
