"""The first step of every method and objective can be rehearsed without values."""

import pytest
import torch

from tests.launch.methods import RECIPES
from tests.training.step_cases import BATCH, CASES, VOCABULARY
from xmodal.assembly.example_batch import expected_samples
from xmodal.assembly.first_step import rehearse
from xmodal.assembly.recipe import read_recipe


@pytest.mark.parametrize("case", CASES)
def test_a_step_is_rehearsed(case: str) -> None:
    kind, words, number = CASES[case]
    recipe = read_recipe(kind, [*words, f"data.batch_size={BATCH}"], RECIPES)
    with torch.device("meta"):
        method = recipe.method.build(vocabulary=VOCABULARY, bf16=False)
    method.make_room(BATCH)
    spec = expected_samples(recipe, local=method.local)
    step = rehearse(method, recipe, recipe.stages[number], spec, 2, on_gpus=False)
    assert step.most["objective"] > 0
    assert step.backwards == 1
