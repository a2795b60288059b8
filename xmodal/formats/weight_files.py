"""Weights of a folder, each tensor read when it is asked for; none is held beside the model's."""

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from xmodal.errors import UserError
from xmodal.formats.tensors import LazyTensors
from xmodal.small_files import read_small
from xmodal.tensor_files import check_tensor_file, load_tensors

NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def open_weights(folder: Path, names: tuple[str, ...] = NAMES) -> Mapping[str, Tensor]:
    """Return the tensors of the first file of `names` that a folder has.

    An index (`….index.json`) names the files of a checkpoint in parts. Raises `UserError` where
    there is no such file, or one cannot be read.
    """
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise UserError(f"{folder} has no weights: none of {', '.join(names)}")
    if path.name.endswith(".index.json"):
        return LazyTensors(dict(_indexed(path)))
    return open_tensors(path)


def open_tensors(path: Path) -> Mapping[str, Tensor]:
    """Return the tensors of a safetensors file, or of a PyTorch file, read when asked for."""
    if path.suffix == ".safetensors":
        return LazyTensors(dict(_in_file(path)))
    tensors = load_tensors(path, mapped=True)
    if not isinstance(tensors, dict) or not all(
        isinstance(one, Tensor) for one in tensors.values()
    ):
        raise UserError(f"{path} has no state dict; save that (torch.save(model.state_dict(), …))")
    return tensors


def _in_file(path: Path) -> Iterator[tuple[str, Any]]:
    from safetensors import SafetensorError, safe_open

    check_tensor_file(path)
    try:
        file = safe_open(path, framework="pt")
        for name in file.keys():  # noqa: SIM118 - a file, not a dictionary
            yield name, lambda name=name: file.get_tensor(name)
    except SafetensorError as error:
        raise UserError(f"{path} holds no tensors, or is damaged: {error}") from None


def _indexed(path: Path) -> Iterator[tuple[str, Any]]:
    try:
        places = json.loads(read_small(path))["weight_map"]
        files = sorted(set(places.values()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path} is no index of weights; download it again") from None
    for name in files:
        if name != Path(name).name or not (path.parent / name).is_file():
            raise UserError(f"{path} names {name}, which is missing; download it again")
        tensors = open_tensors(path.parent / name)
        yield from ((one, partial(tensors.__getitem__, one)) for one in tensors)


def write_weights(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors into a safetensors file, whole or not at all."""
    from safetensors.torch import save_file

    part = path.with_name(path.name + ".part")
    save_file(dict(tensors), part, metadata={"format": "pt"})
    part.replace(path)
