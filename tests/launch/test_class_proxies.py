"""Proxies of classes in a recipe: trained at a rate of their own, measured without them."""

from pathlib import Path

import torch

import xmodal
from tests.commands import train
from tests.launch.methods import CLASSES, IMAGE, TEXT
from tests.run_folders import evaluations, steps, weights


def words(recipe: Path, classes: Path, kind: str, number: int) -> list[object]:
    return [
        recipe,
        *(f"data.{split}={classes}/{split}" for split in ("train", "val")),
        "data.batch_size=16",
        "data.positives=label",
        f"method.image={{kind: features, features: {IMAGE}}}",
        f"method.text={{kind: features, features: {TEXT}}}",
        "method.embedding=16",
        f"method.objective={{kind: {kind}, classes: {number}}}",
        "stages.0.optimizer={lr: 1e-2, factors: {loss.proxies: 10}}",
        "evaluation.protocols=[class]",
        "checkpoints.best=class/map",
    ]


def test_a_run_learns_proxies_and_is_measured_without_them(
    recipe: Path, classes: Path, tmp_path: Path
) -> None:
    done = train(*words(recipe, classes, "norm_softmax", CLASSES), f"run={tmp_path / 'run'}")
    assert done.code == 0, done.err
    losses = list(steps(tmp_path / "run").values())
    assert losses[-1] < losses[0] / 2
    assert set(steps(tmp_path / "run", "classes").values()) == {CLASSES}
    measured = list(evaluations(tmp_path / "run").values())
    assert measured[-1]["class/map"] > 0.9
    known = weights(tmp_path / "run", len(losses))["loss.numbers.ids"]
    assert len(known.unique()) == CLASSES
    model = xmodal.load(tmp_path / "run", device="cpu")
    assert model.method.loss.proxies.weight.shape == (CLASSES, 16)
    assert not model.method.loss.numbers.ids.numel()
    assert torch.isfinite(model.method.loss.proxies.weight).all()


def test_more_classes_than_proxies_are_a_mistake(
    recipe: Path, classes: Path, tmp_path: Path
) -> None:
    few = words(recipe, classes, "proxy_anchor", CLASSES - 1)
    done = train(*few, f"run={tmp_path / 'run'}")
    assert "more than the 3 classes of the objective" in done.error


def test_more_pairs_of_a_class_than_an_objective_takes_are_a_mistake(
    recipe: Path, classes: Path, tmp_path: Path
) -> None:
    given = words(recipe, classes, "proxy_anchor", CLASSES)
    given += ["method.objective={kind: smooth_ap, most_positives: 2}"]
    given += ["stages.0.optimizer={lr: 1e-2}"]
    done = train(*given, f"run={tmp_path / 'run'}")
    assert "pairs of one id, more than the 2 of method.objective.most_positives" in done.error


def test_more_classes_than_proxies_of_each_width_are_a_mistake(
    recipe: Path, classes: Path, tmp_path: Path
) -> None:
    few = words(recipe, classes, "proxy_anchor", CLASSES - 1)
    of_widths = f"widths: [8, 16], objective: {{kind: proxy_anchor, classes: {CLASSES - 1}}}"
    few += [f"method.objective={{kind: matryoshka, {of_widths}}}"]
    few += ["stages.0.optimizer={lr: 1e-2, factors: {loss.objective.proxies: 10}}"]
    done = train(*few, f"run={tmp_path / 'run'}")
    assert "more than the 3 classes of the objective" in done.error
