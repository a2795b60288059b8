"""Pretrained models that a recipe begins with (`method.pretrained`).

What a source describes is written into the recipe when that is read, and with it into the run: a
run that has a checkpoint never needs its source again. The weights are loaded before training.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from xmodal.errors import UserError
from xmodal.formats.dual_encoder import DualEncoder
from xmodal.formats.source import read_source
from xmodal.methods.clip import ClipConfig
from xmodal.methods.method import Method
from xmodal.models.adapters import base_weights
from xmodal.models.positions import fit_positions
from xmodal.runs.run import Run
from xmodal.yaml_text import read_yaml

SIDES = ("image", "text")
_NAMING = ("kind", "name")  # keys by which another encoder is meant, not a change of this one


def describe(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe's values with what the sources of its method describe, where it gives none.

    A run that has a checkpoint describes itself. Raises `UserError` for a source that cannot be
    read.
    """
    method = values["method"]
    described = _of_run(values["run"], method) or _of_sources(method["pretrained"])
    return {**values, "method": _merged(described, method)}


def _of_run(folder: str, method: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the method of a run that has a checkpoint and began with the same sources."""
    run = Run(folder)
    if run.latest() is None or not run.recipe.is_file():
        return None
    begun = read_yaml(run.recipe).get("method")
    same = isinstance(begun, dict) and begun.get("pretrained") == method["pretrained"]
    return begun if same else None


def _of_sources(pretrained: Any) -> dict[str, Any]:
    described: dict[str, Any] = {}
    encoders = _read(pretrained)
    for side, encoder in encoders.items():
        head = getattr(encoder, f"{side}_head")
        described[side] = getattr(encoder, side).model_dump(mode="json")
        described[f"{side}_head"] = head and head.model_dump(mode="json")
        described.setdefault("embedding", encoder.embedding)
    if _is_one(encoders):
        described["objective"] = encoders["image"].objective.model_dump(mode="json")
    return described


def _read(pretrained: Any) -> dict[str, DualEncoder]:
    """Return the model of each side that a source is given for; the same one is read once."""
    given = dict.fromkeys(SIDES, pretrained) if isinstance(pretrained, str) else dict(pretrained)
    read = {source: read_source(source) for source in {given.get(side) for side in SIDES} if source}
    return {side: read[given[side]] for side in SIDES if given.get(side)}


def _is_one(encoders: Mapping[str, DualEncoder]) -> bool:
    """Return whether both towers come from one model, and with them its scale and bias."""
    return len(encoders) == len(SIDES) and encoders["image"] is encoders["text"]


def _merged(described: Any, given: Any) -> Any:
    """Return what is described, with given keys in the place of its own."""
    if not (isinstance(described, Mapping) and isinstance(given, Mapping)):
        return given
    if any(name in given and given[name] != described.get(name, given[name]) for name in _NAMING):
        return given
    both = {key: _merged(described.get(key), value) for key, value in given.items()}
    return {**described, **both}


def load_pretrained(method: Method, recipe: Any) -> Iterator[str]:
    """Load the weights of a recipe's sources, and yield log lines.

    Heads and scales that are not those of the source stay as they are. A run that has a checkpoint
    reads its own weights later. Raises `UserError` for weights that do not fit the recipe.
    """
    config = recipe.method
    sources = getattr(config, "pretrained", None)
    if sources is None or Run(recipe.run).latest() is not None:
        return
    encoders = _read(sources if isinstance(sources, str) else sources.model_dump())
    if not any(_is_same(config, encoder, side) for side, encoder in encoders.items()):
        raise UserError(
            "method.pretrained gives nothing: the recipe's own method.image and method.text take "
            "its place; remove them, or begin with a recipe that has none, such as finetune_clip"
        )
    for side, encoder in encoders.items():
        yield from _load_tower(method, config, encoder, side)
    if _is_one(encoders) and config.objective == encoders["image"].objective:
        _load(method, encoders["image"].weights, "loss.")
    elif not _is_one(encoders):
        yield "The scale of scores is that of the recipe: method.pretrained has two sources"


def _load_tower(
    method: Method, config: ClipConfig, encoder: DualEncoder, side: str
) -> Iterator[str]:
    if not _is_same(config, encoder, side):
        yield f"method.{side} is not the encoder of method.pretrained: it begins as described"
        return
    count, lines = _load(method, encoder.weights, f"{side}.backbone.")
    yield from lines
    head = f"{side}_head"
    same = getattr(config, head) == getattr(encoder, head)
    if same and config.embedding == encoder.embedding:
        count += _load(method, encoder.weights, f"{side}.head.")[0]
    else:
        yield f"method.{head} is not that of method.pretrained: it begins random"
    yield f"Loaded {count} pretrained tensors of method.{side}"


def _is_same(config: ClipConfig, encoder: DualEncoder, side: str) -> bool:
    """Return whether a tower is of the kind, and of the name, that its source describes."""
    ours, theirs = getattr(config, side), getattr(encoder, side)
    return all(getattr(ours, name, None) == getattr(theirs, name, None) for name in _NAMING)


@torch.no_grad()
def _load(method: Method, weights: Mapping[str, Tensor], prefix: str) -> tuple[int, list[str]]:
    """Copy the weights of a part, one tensor at a time; return how many, and log lines."""
    own = {name: one for name, one in base_weights(method).items() if name.startswith(prefix)}
    lines: list[str] = []
    for name, tensor in own.items():
        if name not in weights:
            raise UserError(
                f"method.pretrained has no {name}, which the recipe's "
                f"method.{prefix.partition('.')[0]} has; give no other sizes than the source's"
            )
        found = weights[name]
        if found.shape != tensor.shape:
            found, line = fit_positions(name, found, tensor)
            lines.append(line)
        tensor.copy_(found)
    unused = [name for name in weights if name.startswith(prefix) and name not in own]
    if unused:
        lines.append(f"warning: {len(unused)} pretrained tensors are unused: {unused[0]} …")
    return len(own), lines
