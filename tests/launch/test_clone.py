"""A run goes on from another run's weights by a recipe of its own, and says so."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.commands import train
from tests.run_folders import kept_checkpoints, steps, weights
from xmodal.assembly.recipe import Recipe, load_recipe, with_values
from xmodal.errors import UserError
from xmodal.runs.checkpoints.clone import clone_checkpoint
from xmodal.runs.run import Run

CHANGED = {"stages.0.optimizer.lr": 1e-3, "stages.0.optimizer.weight_decay": 0.3}


@pytest.fixture
def behind(finished: Path, tmp_path: Path) -> tuple[Run, Run, Recipe]:
    """A run of 12 steps, a donor of 18, and the recipe that the run shall go on by."""
    runs = []
    for name, newest in (("run", 12), ("donor", 18)):
        folder = tmp_path / name
        shutil.copytree(finished, folder)
        for step in Run(folder).checkpoints.glob("step-*"):
            if int(step.name.removeprefix("step-")) > newest:
                shutil.rmtree(step)
        source = finished / "checkpoints" / "step-18"
        target = folder / "checkpoints" / f"step-{newest}"
        if not target.exists():
            shutil.copytree(source, target)
        (folder / "checkpoints" / "latest").write_text(target.name)
        text = (folder / "recipe.yaml").read_text().replace(str(finished), str(folder))
        (folder / "recipe.yaml").write_text(text)
        runs.append(Run(folder))
    recipe = with_values(load_recipe(runs[0].path), CHANGED, "test")
    return runs[0], runs[1], recipe


def test_it_goes_on_from_the_donor_s_weights(behind: tuple[Run, Run, Recipe]) -> None:
    run, donor, recipe = behind
    before = weights(donor.path, 18)
    assert clone_checkpoint(run, donor, 18, recipe) == 18
    assert kept_checkpoints(run.path) == {"latest", "step-18"}
    after = weights(run.path, 18)
    assert all(torch.equal(before[name], after[name]) for name in before)
    (line,) = (run.path / "lineage.jsonl").read_text().splitlines()
    said = json.loads(line)
    assert (said["step"], said["weights"]) == (18, str(donor.path))
    assert [change.split(":")[0] for change in said["changed"]] == list(CHANGED)
    # What is taken is taken once: a trial that crashes afterwards does not begin there again.
    shutil.rmtree(donor.checkpoints)
    assert clone_checkpoint(run, donor, 18, recipe) == 18
    # The same command as ever goes on, by the new recipe: its rate and its decay.
    done = train(run.path / "recipe.yaml", "stages.0.schedule.warmup=5 %")
    assert done.code == 0, done.err
    assert max(steps(run.path)) == 24
    state = torch.load(
        run.checkpoint(24) / "mp_rank_00_model_states.pt", map_location="cpu", weights_only=False
    )
    groups = state["optimizer"]["param_groups"]
    assert {group["weight_decay"] for group in groups} == {0.3, 0.0}


def test_a_broken_checkpoint_is_not_taken(behind: tuple[Run, Run, Recipe]) -> None:
    run, donor, recipe = behind
    for folder in donor.finished():
        (folder / "mp_rank_00_model_states.pt").write_bytes(b"")
    kept = kept_checkpoints(run.path)
    with pytest.raises(UserError, match="has no intact checkpoint to continue from"):
        clone_checkpoint(run, donor, 18, recipe)
    assert kept_checkpoints(run.path) - {"taken.partial"} == kept
    assert not (run.path / "lineage.jsonl").exists()
