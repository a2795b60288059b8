"""Mistakes in a SPACE.yaml and in what goes with it are one line, before Ray starts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.commands import run
from tests.tuning.sweeps import DECAY, LR
from xmodal.assembly.recipe import read_recipe
from xmodal.tuning.folder import make_folder
from xmodal.tuning.space import (
    from_optuna,
    kept_within,
    mutations,
    read_space,
    to_optuna,
    values_of,
)

MISTAKES = [
    ({"metrc": "rsum"}, "unknown key metrc (did you mean metric?)"),
    ({"trials": 0}, "trials: 0 is not allowed: input should be greater than 0"),
    ({"search": "optun"}, "'random' or 'optuna' (did you mean optuna?)"),
    ({"scheduler": "ahsa"}, "scheduler.kind: ahsa is not allowed (did you mean asha?)"),
    ({"scheduler": {"kind": "asha", "reduction": 1}}, "scheduler.reduction: 1 is not allowed"),
    ({"workers": 2, "resources": {"gpus": 0.5}}, "ranks of one trial do not share a GPU"),
    ({"space": {}}, "space: {} is not allowed"),
    ({"space": {"run": {"choice": ["a", "b"]}}}, "`run` is not searched"),
    ({"space": {LR: {"uniform": [1, 0]}}}, "a range is [lowest, highest]"),
    ({"space": {LR: {"uniform": [0, 1], "choice": [1, 2]}}}, "write one of uniform, log_uniform"),
    ({"space": {LR: {"log_uniform": [0, 1]}}}, "log_uniform.0: 0 is not allowed"),
    ({"space": {LR: {"loguniform": [1, 2]}}}, "loguniform (did you mean log_uniform?)"),
    (
        {"space": {"stages.0.optimizer.lrr": {"uniform": [1e-3, 1]}}},
        "unknown key stages.0.optimizer.lrr (did you mean lr?)",
    ),
    ({"space": {"stages.1.clip_norm": {"uniform": [0, 1]}}}, "no position (from 0) in a list of 1"),
    ({"space": {LR: {"uniform": [-1e-3, 1e-2]}}}, f"{LR}: -0.001 is not allowed"),
    ({"space": {"data.flip": {"choice": [True, "perhaps"]}}}, "data.flip: perhaps is not allowed"),
    # Of a key that takes whole numbers, not the ends alone count.
    ({"space": {"method.embedding": {"uniform": [32, 64]}}}, "method.embedding: 54.6"),
    (
        {"scheduler": "pbt", "space": {"method.embedding": {"choice": [32, 64]}}},
        "cannot change while weights and optimiser continue",
    ),
]


@pytest.mark.parametrize(("keys", "said"), MISTAKES)
def test_a_mistake_is_one_line(
    keys: dict[str, Any], said: str, recipe: Path, space: Callable[..., Path], tmp_path: Path
) -> None:
    done = run("tune.py", recipe, "--space", space(**keys), "--sweep", tmp_path / "sweep")
    assert said in done.error
    assert not (tmp_path / "sweep").exists()


def test_a_run_folder_is_no_sweep_s(recipe: Path, space: Callable[..., Path]) -> None:
    done = run("tune.py", recipe, "--space", space(), "run=runs/mine")
    assert "--sweep DIR" in done.error


@pytest.mark.parametrize(
    ("keys", "overrides", "said"),
    [
        (
            {"metric": "rsun"},
            [],
            "rsun is no metric of evaluation.protocols (did you mean rsum?)",
        ),
        ({}, ["data.val=null"], "data.val is missing"),
        ({"workers": 3}, [], "3 ranks do not divide data.batch_size=32; nearest: 30 or 33"),
        ({"scheduler": "pbt"}, ["checkpoints.every=12 steps"], "set checkpoints.every=6 steps"),
    ],
)
def test_what_does_not_go_with_the_recipe_is_one_line(
    keys: dict[str, Any],
    overrides: list[str],
    said: str,
    recipe: Path,
    space: Callable[..., Path],
    tmp_path: Path,
) -> None:
    sweep = tmp_path / "sweep"
    done = run("tune.py", recipe, "--space", space(**keys), "--sweep", sweep, *overrides)
    assert said in done.error


def test_a_folder_goes_on_with_the_same_alone(
    recipe: Path, space: Callable[..., Path], tmp_path: Path
) -> None:
    sweep = tmp_path / "sweep"

    def error(*overrides: str, **keys: Any) -> str:
        words = [recipe, "--space", space(metric="no metric", **keys), "--sweep", sweep]
        return run("tune.py", *words, *overrides).error

    assert "no metric is no metric" in error()
    assert not sweep.exists()  # a mistake begins nothing
    begun = read_recipe(str(recipe), [], recipe.parent)
    make_folder(sweep, begun, read_space(space(metric="no metric"), begun))
    assert "data.batch_size: 32 → 16" in error("data.batch_size=16")
    assert "workers: 1 → 2" in error(workers=2)
    # More trials, other resources and where data are kept change no trial that was.
    assert "no metric is no metric" in error("data.workers=1", trials=9, resources={"cpus": 0.5})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").touch()
    sweep = tmp_path / "other"
    assert "is a folder of something else" in error()


KEYS = {
    LR: {"log_uniform": [1e-4, 1e-2]},
    "data.crop": {"choice": [None, [0.5, 1.0]]},
    "data.window": {"integers": [2, 8]},
}


def test_values_travel_to_optuna_and_back(recipe: Path, space: Callable[..., Path]) -> None:
    read = read_recipe(str(recipe), ["data.window=4"], recipe.parent)
    found = read_space(space(space=KEYS), read)
    values = {LR: 3e-4, "data.crop": None, "data.window": 4}
    assert values_of(read, found) == values
    for crop in (None, [0.5, 1.0]):
        parameters = to_optuna(values | {"data.crop": crop}, found)
        assert parameters is not None
        assert from_optuna(parameters, found) == values | {"data.crop": crop}
    assert to_optuna(values | {LR: 0.1}, found) is None
    assert to_optuna(values | {"data.crop": [0.9, 1.0]}, found) is None


def test_a_population_moves_within_its_ranges(recipe: Path, space: Callable[..., Path]) -> None:
    read = read_recipe(str(recipe), [], recipe.parent)
    keys = {LR: KEYS[LR], DECAY: {"choice": [0.0, 0.1]}}
    found = read_space(space(scheduler="pbt", space=keys), read)
    assert mutations(found)[DECAY] == [0.0, 0.1]
    keep = kept_within(found)
    assert keep({LR: 0.012, DECAY: 0.1}) == {LR: 1e-2, DECAY: 0.1}
    assert keep({LR: 8e-5, DECAY: 0.0}) == {LR: 1e-4, DECAY: 0.0}
