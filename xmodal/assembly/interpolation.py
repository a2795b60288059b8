"""Interpolation of the weights of two runs (WiSE-FT)."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from xmodal.activity import activity
from xmodal.assembly.build import load_method
from xmodal.assembly.recipe import Recipe, load_recipe, with_values
from xmodal.assembly.vocabulary import tokenizer_of
from xmodal.components.differences import differences
from xmodal.errors import UserError
from xmodal.runs.averages import Weights
from xmodal.runs.checkpoints.weights_only import write_weights
from xmodal.runs.run import Run, step_of

State = Mapping[str, Tensor]  # weights and buffers by name
# Keys of a method that its weights were trained by, and that no embedding depends on any more.
_OF_TRAINING = {"weights", "pretrained", "objective", "batch_norm", "collapse"}
# What a run folder has of its training: a model has the rest.
_TRAINING: tuple[str, ...] = ("lock", "checkpoints", "metrics.jsonl*", "tensorboard")
_TRAINING += (
    "results.json",
    "evaluations",
    "report",
    "data.json",
    "lineage.jsonl",
    "recipe.yaml",
    "*.part",
    "*.other",
)


@dataclass(frozen=True)
class Endpoint:
    """A checkpoint to interpolate from or to, on the CPU."""

    recipe: Recipe
    run: Run
    checkpoint: Path
    state: State
    weights: Weights

    def __str__(self) -> str:
        averaged = " (averaged weights)" if self.weights == "averaged" else ""
        return f"{self.checkpoint}{averaged}"


def load_endpoint(folder: str, checkpoint: str, choice: Weights | None) -> Endpoint:
    """Load a checkpoint of a run by its name; raises `UserError` where that is not possible."""
    recipe, run = load_recipe(folder), Run(folder)
    found = run.find_checkpoint(checkpoint)
    with activity(f"loading {found}"):
        method, _, weights = load_method(recipe, run, found, torch.device("cpu"), choice)
    return Endpoint(recipe, run, found, method.state_dict(), weights)


def interpolated(first: State, second: State, alpha: float) -> dict[str, Tensor]:
    """Return (1 - alpha) · first + alpha · second of all weights and running statistics.

    Wortsman et al. 2022 (arXiv 2109.01903, section 3): the first is the model before fine-tuning,
    the second the one after. Counts, which cannot be interpolated, are those of the nearer model.
    At 0 and 1 the result is that model to the last bit.
    """
    nearer = first if alpha < 0.5 else second
    return {
        name: torch.lerp(one, second[name], alpha)
        if one.is_floating_point() and 0 < alpha < 1
        else nearer[name].clone()
        for name, one in first.items()
    }


def check_alike(first: Endpoint, second: Endpoint) -> None:
    """Raise `UserError` unless two models have one architecture and one tokenizer."""
    names, advice = f"{first.run.path} and {second.run.path}", "interpolate models of one recipe"
    for line in differences(first.recipe.method, second.recipe.method):
        if not _OF_TRAINING & {*line.partition(":")[0].split(".")}:
            raise UserError(f"{names} have different architectures: method.{line}; {advice}")
    for name in {**first.state, **second.state}:
        shapes = [
            tuple(of[name].shape) if name in of else None for of in (first.state, second.state)
        ]
        if shapes[0] != shapes[1]:
            found = " → ".join(map(str, shapes))
            raise UserError(f"{names} have different weights: {name}: {found}; {advice}")
    if _vocabulary(first) != _vocabulary(second):
        raise UserError(
            f"{names} have different tokenizers, so equal ids mean other texts; {advice}"
        )


def write_interpolated(first: Endpoint, second: Endpoint, alpha: float, to: Path) -> Path:
    """Write interpolated weights as a run folder to load, measure and export; return the
    checkpoint. All but the weights is of the second model.
    """
    run, like = Run(to), second.run
    to.mkdir(parents=True, exist_ok=True)
    shutil.copytree(like.path, to, ignore=shutil.ignore_patterns(*_TRAINING), dirs_exist_ok=True)
    run.create(with_values(second.recipe, {"run": str(to), "training.zero": 0}, str(like.recipe)))
    text = _vocabulary(second)
    run.tokenizer.write_bytes(text)
    state = interpolated(first.state, second.state, alpha)
    made = f"its weights are {between(first, second, alpha)}"
    return write_weights(run, state, step_of(second.checkpoint), text, made)


def between(first: Endpoint, second: Endpoint, alpha: float) -> str:
    """Return a description of interpolated weights."""
    return f"{1 - alpha:g} · {first} + {alpha:g} · {second}"


def _vocabulary(one: Endpoint) -> bytes:
    return tokenizer_of(one.run, one.checkpoint).read_bytes()
