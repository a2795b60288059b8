"""FLOPs of every method and stage can be counted without values, and are those of a real step."""

import pytest
from torch.utils.flop_counter import FlopCounterMode

from tests.launch.methods import RECIPES
from tests.training.step_cases import CASES, VOCABULARY, batch_of
from xmodal.assembly.recipe import read_recipe
from xmodal.costs.flops import flops_of_step
from xmodal.models.layer_groups import encoders_of
from xmodal.training.parts import select_trained

LAST = {kind: case for case, (kind, *_) in CASES.items() if kind != "clip"}  # stage of a method
STAGES = [
    pytest.param(case, marks=() if case in ("clip, info_nce", *LAST.values()) else pytest.mark.slow)
    for case, (kind, *_) in CASES.items()
    if kind != "clip" or case == "clip, info_nce"
]


@pytest.mark.parametrize("case", STAGES)
def test_every_stage_is_counted(case: str) -> None:
    kind, words, number = CASES[case]
    recipe = read_recipe(kind, list(words), RECIPES)
    method = recipe.method.build(vocabulary=VOCABULARY, bf16=False)
    stage = recipe.stages[number]
    select_trained(method, stage.train, stage.lock)
    method.begin_stage(tuple(stage.losses))
    method.on_step_start(0.5, seed=1)
    batch = batch_of(method, recipe)
    found = flops_of_step(method, batch)
    trained = {
        name.split(".")[0]
        for name, encoder in encoders_of(method).items()
        if any(weights.requires_grad for weights in encoder.parameters())
    }
    assert {part for part in ("image", "text") if found.backward.get(part)} == trained
    with FlopCounterMode(display=False) as real:
        embeddings = method.encode(batch)
        encoded = real.get_total_flops()
        sum(method.objective(embeddings).values()).backward()
    without_losses = sum(found.forward.values()) - found.forward["objective"]
    assert without_losses == pytest.approx(encoded, rel=1e-3)
    if kind != "uncsm":  # where losses with networks are all: some of their inputs are locked
        assert found.total == pytest.approx(real.get_total_flops(), rel=0.01)
