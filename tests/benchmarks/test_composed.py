"""The rows of the tables of composed retrieval and of visual similarity can be trained."""

import argparse
from pathlib import Path

import pytest
import torch

from benchmarks import composed, visual
from xmodal.assembly.build import first_method
from xmodal.assembly.checks import check_method
from xmodal.assembly.recipe import Recipe

SMALL = {
    "tirg": ["method.image={kind: features, features: 8}"],
    "dim": ["method.image={kind: timm, name: test_resnet, size: 32}"],
}


def given(tmp_path: Path, *overrides: str) -> argparse.Namespace:
    return argparse.Namespace(runs=tmp_path, override=overrides, quick=False)


@pytest.mark.parametrize("method", composed.METHODS)
def test_rows_of_composed_retrieval_have_one_budget_and_parts_to_train(
    method: str, tmp_path: Path
) -> None:
    small = [
        *SMALL[composed.METHODS[method][0]],
        "method.text={kind: features, features: 8}",
        "method.embedding=8",
        "data.feature_cache=null",
    ]
    recipe = composed.recipe_of_row("emoji", method, 0, given(tmp_path, *small))
    built = first_method(recipe, torch.device("cpu"))
    check_method(recipe, built)
    assert built.contents.composed
    assert budget(recipe) == (128, ["100 steps"])


def test_rows_of_visual_similarity_have_one_budget(tmp_path: Path) -> None:
    trained = set(visual.METHODS).difference(visual.UNTRAINED)
    recipes = [visual.recipe_of_row("emoji", name, 0, given(tmp_path)) for name in trained]
    assert {str(budget(recipe)) for recipe in recipes} == {str((64, ["100 steps"]))}
    assert len({str(recipe.method.image) for recipe in recipes}) == 1


def budget(recipe: Recipe) -> tuple[int, list[str]]:
    return recipe.data.batch_size, [str(stage.length) for stage in recipe.stages]
