"""Interpolation of the weights of two runs (WiSE-FT)."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xmodal.activity import activity
from xmodal.assembly.build import build_method, load_method
from xmodal.assembly.pretrained import load_pretrained
from xmodal.assembly.recipe import Recipe, load_recipe, with_values
from xmodal.assembly.vocabulary import load_tokenizer, tokenizer_of
from xmodal.components.differences import differences
from xmodal.errors import UserError, printable
from xmodal.models.adapters import merge_adapters
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
    """A model to interpolate from or to, on the CPU; its name is a checkpoint or a source."""

    name: str
    recipe: Recipe
    run: Run
    checkpoint: Path
    state: State

    @property
    def vocabulary(self) -> bytes:
        """The file of its tokenizer."""
        return tokenizer_of(self.run, self.checkpoint).read_bytes()


def load_endpoint(folder: str, checkpoint: str, choice: Weights | None) -> Endpoint:
    """Load a checkpoint of a run by its name; raises `UserError` where that is not possible."""
    recipe, run = load_recipe(folder), Run(folder)
    found = run.find_checkpoint(checkpoint)
    with activity(f"loading {found}"):
        method, _, weights = load_method(recipe, run, found, torch.device("cpu"), choice)
    # What adapters add is the product of two matrices: it is interpolated as a weight.
    merge_adapters(method)
    name = f"{found} (averaged weights)" if weights == "averaged" else str(found)
    return Endpoint(name, _without_adapters(recipe), run, found, method.state_dict())


def _without_adapters(recipe: Recipe) -> Recipe:
    encoders = {side: getattr(recipe.method, side) for side in ("image", "text")}
    keys = [f"method.{side}.lora" for side, one in encoders.items() if getattr(one, "lora", None)]
    return with_values(recipe, dict.fromkeys(keys), recipe.run) if keys else recipe


def start_of(one: Endpoint) -> Endpoint:
    """Return the pretrained model that a run began with, its other weights those of its seed.

    Raises `UserError` where there is none, or its source cannot be read any more.
    """
    pretrained = getattr(one.recipe.method, "pretrained", None)
    if pretrained is None:
        raise UserError(
            f"{one.run.path} began without method.pretrained: name the run at alpha 0 before it"
        )
    tokenizer = load_tokenizer(one.recipe.method, tokenizer_of(one.run, one.checkpoint))
    cpu = torch.device("cpu")
    method = build_method(one.recipe, tokenizer.vocabulary, cpu, of_run=one.run.path)
    # As in a folder without a checkpoint: the run's own would take the place of its source.
    begun = one.recipe.model_copy(update={"run": str(one.checkpoint / "begun")})
    with activity(f"loading {pretrained}"):
        for line in load_pretrained(method, begun):
            print(printable(line))
    return Endpoint(
        f"the start of {one.run.path}", one.recipe, one.run, one.checkpoint, method.state_dict()
    )


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
    names, advice = f"{first.name} and {second.name}", "interpolate models of one recipe"
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
    if first.vocabulary != second.vocabulary:
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
    whole: dict[str, Any] = {"run": str(to), "training.zero": 0}
    if second.recipe.training.precision == "bf16_weights":  # which ZeRO alone has
        whole["training.precision"] = "bf16"
    run.create(with_values(second.recipe, whole, str(like.recipe)))
    run.tokenizer.write_bytes(second.vocabulary)
    state = interpolated(first.state, second.state, alpha)
    made = f"its weights are {between(first, second, alpha)}"
    return write_weights(run, state, step_of(second.checkpoint), second.vocabulary, made)


def between(first: Endpoint, second: Endpoint, alpha: float) -> str:
    """Return a description of interpolated weights."""
    return f"{1 - alpha:g} · {first.name} + {alpha:g} · {second.name}"
