"""launch/interpolate.py: models between two checkpoints, and their curve."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import xmodal
from tests.commands import Done, evaluate, run, train
from tests.formats.reference_libraries import References
from tests.launch.conftest import STEPS
from tests.recipes import recipe_of
from tests.run_folders import evaluations, measured, results, weights
from xmodal.assembly.interpolation import Endpoint, check_alike, interpolated
from xmodal.errors import UserError
from xmodal.evaluation.protocols.registry import logged_metrics
from xmodal.formats.source import read_source
from xmodal.models.adapters import merge_adapters
from xmodal.runs.run import Run

LATEST, BEFORE = STEPS, STEPS - 6


def between(*words: object, **options: Any) -> Done:
    return run("interpolate.py", *words, **options)


@pytest.fixture(scope="module")
def before(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished run as it was a few steps before its end."""
    folder = shutil.copytree(finished, tmp_path_factory.mktemp("before") / "run")
    shutil.rmtree(folder / "checkpoints" / f"step-{LATEST}")
    (folder / "checkpoints" / "latest").write_text(f"step-{BEFORE}")
    return folder


def test_all_that_floats_is_interpolated_and_ends_are_exact() -> None:
    first = {"weight": torch.randn(3, 4) * 1e3, "count": torch.tensor(3), "empty": torch.zeros(0)}
    second = {"weight": torch.randn(3, 4) / 1e3, "count": torch.tensor(8), "empty": torch.zeros(0)}
    for alpha, end in ((0.0, first), (1.0, second)):
        exact = interpolated(first, second, alpha)
        assert all(exact[name].equal(end[name]) for name in end)
        assert all(exact[name] is not end[name] for name in end)
    quarter = interpolated(first, second, 0.25)
    mean = 0.75 * first["weight"] + 0.25 * second["weight"]
    torch.testing.assert_close(quarter["weight"], mean)
    assert quarter["count"] == 3
    assert interpolated(first, second, 0.75)["count"] == 8


def test_a_model_between_is_loaded_and_measured(
    before: Path, finished: Path, recipe: Path, tmp_path: Path
) -> None:
    to = tmp_path / "models" / "between"
    done = between(before, finished, "--alpha", 0.25, "--to", to)
    checkpoints = [f"{of}/checkpoints/step-{step}" for of, step in ((before, 18), (finished, 24))]
    line = f"{to}/checkpoints/step-24: 0.75 · {checkpoints[0]} + 0.25 · {checkpoints[1]}"
    assert done.out.splitlines()[-1] == line, done
    first, second = weights(before, BEFORE), weights(finished, LATEST)
    model = xmodal.load(to, device="cpu")
    for name, found in model.method.state_dict().items():
        torch.testing.assert_close(found, 0.75 * first[name] + 0.25 * second[name], msg=name)
    assert evaluate(to).folder == to
    assert measured(to)["checkpoint"] == "step-24"
    files = {path: path.read_bytes() for path in to.rglob("*.json*")}
    again = train(to / "recipe.yaml", f"run={to}")
    assert again.code == 0, again.err
    assert "its weights are 0.75 · " in again.out
    assert {path: path.read_bytes() for path in to.rglob("*.json*")} == files


def test_a_curve_ends_at_both_models(before: Path, finished: Path, tmp_path: Path) -> None:
    to = tmp_path / "curve"
    done = between(before, finished, "--alphas", "0.5,0,1", "--to", to)
    assert done.folder == to
    points = json.loads((to / "curve.json").read_text())["points"]
    assert [point.pop("alpha") for point in points] == [0, 0.5, 1]
    assert points[0] == pytest.approx(evaluations(before)[BEFORE])
    assert points[2] == pytest.approx(results(finished))
    assert points[1] not in (points[0], points[2])
    page = (to / "report" / "index.html").read_text()
    for point in points:
        shown = [f"{value:.2f}" for value in logged_metrics(point).values()]
        assert all(f"<td>{value}</td>" in page and value in done.out for value in shown)
    assert page.count("<polyline") == page.count("by alpha</span>") == len(shown) > 0


def test_a_mistake_is_one_line(finished: Path, tmp_path: Path) -> None:
    words = [finished, finished, f"--to={tmp_path}/new"]
    wrong = between(*words, "--alpha=1.5").error
    assert "argument --alpha: '1.5' is no number between 0 and 1" in wrong
    wrong = between(*words, "--alphas=0,x").error
    assert "argument --alphas: 'x' is no number between 0 and 1" in wrong
    assert "one of the arguments --alpha --alphas is required" in between(*words).error
    (tmp_path / "old").write_text("mine")
    error = between(finished, finished, "--alpha=1", f"--to={tmp_path}").error
    assert error == f"--to {tmp_path} is there already; name a new folder"
    assert "is no run folder" in between(tmp_path, *words[1:], "--alpha=1").error
    error = between(finished, "--alpha=1", f"--to={tmp_path}/new").error
    assert error.startswith(f"{finished} began without method.pretrained: name the run at alpha 0")
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def endpoint(folder: Path, vocabulary: str = "{}", **method: Any) -> Endpoint:
    """Return a model of a single weight."""
    recipe = recipe_of(folder, **method)
    opened = Run(folder)
    folder.mkdir(exist_ok=True)
    opened.tokenizer.write_text(vocabulary)
    state = {"weight": torch.zeros(recipe.method.embedding)}
    return Endpoint(str(folder), recipe, opened, opened.checkpoint(1), state)


def test_models_have_one_architecture_and_one_tokenizer(tmp_path: Path) -> None:
    first = endpoint(tmp_path / "a")
    check_alike(first, endpoint(tmp_path / "b", method__image__weights="weights.pt"))
    wrong = {
        "different architectures: method.embedding: 8 → 4": {"method__embedding": 4},
        "different architectures: method.image.size: 32 → 64": {"method__image__size": 64},
        "different tokenizers": {"vocabulary": "{ }"},
    }
    for line, changes in wrong.items():
        with pytest.raises(UserError, match=f"a and .*b have {line}.*; interpolate models of one"):
            check_alike(first, endpoint(tmp_path / "b", **changes))
    second = endpoint(tmp_path / "b")
    for other in ({}, {"weight": torch.zeros(9)}):
        with pytest.raises(UserError, match=r"different weights: weight: \(8,\) → "):
            check_alike(first, replace(second, state=other))


@pytest.mark.slow
def test_a_run_knows_the_pretrained_model_that_it_began_with(
    references: References, scenes: Path, tmp_path: Path
) -> None:
    source = references.folder("open_clip_models") / "clip"
    recipe = tmp_path / "finetune.yaml"
    recipe.write_text(
        f"data: {{train: {scenes}/train, val: {scenes}/val, batch_size: 32, workers: 0}}\n"
        f"method: {{kind: clip, pretrained: {{image: {source}}}, text: {{kind: transformer, width: "
        "64, layers: 1, heads: 2, tokenizer: {kind: bytes}}}\n"
        "stages: [{length: 4 steps, optimizer: {lr: 1e-3}}]\n"
    )
    done = train(recipe, f"run={tmp_path}/run")
    assert done.code == 0, done.err
    for alpha in (0, 1):
        done = between(tmp_path / "run", f"--alpha={alpha}", f"--to={tmp_path / str(alpha)}")
        assert done.code == 0, done.err
    start, end = (xmodal.load(tmp_path / name, device="cpu").method.state_dict() for name in "01")
    described = dict(read_source(str(source)).weights)
    images = [name for name in described if name.startswith("image.")]
    assert images
    assert all(start[name].equal(described[name]) for name in images)
    last = weights(tmp_path / "run", 4)
    assert all(end[name].equal(last[name]) for name in last)
    assert not all(end[name].equal(start[name]) for name in last)


@pytest.mark.slow
def test_what_adapters_add_is_interpolated_as_a_weight(
    finished: Path, recipe: Path, tmp_path: Path
) -> None:
    after = tmp_path / "after"
    lora = ["method.image.lora={rank: 2}", "stages.0.length=4 steps", "data.val=null"]
    assert train(recipe, f"run={after}", *lora, "training.zero=2").code == 0
    adapted = xmodal.load(after, device="cpu")
    merge_adapters(adapted.method)
    last, first = adapted.method.state_dict(), weights(finished, LATEST)
    assert between(finished, after, "--alpha=0.5", f"--to={tmp_path}/half").code == 0
    for name, found in xmodal.load(tmp_path / "half", device="cpu").method.state_dict().items():
        torch.testing.assert_close(found, (first[name] + last[name]) / 2, msg=name)
    val = adapted.recipe.data.train[0].url
    curve = between(finished, after, "--alphas=0,1", f"--to={tmp_path}/curve", "--data", val)
    assert curve.folder == tmp_path / "curve"
