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
from xmodal.tensor_files import DAMAGED, check_tensor_file, load_tensors

NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
_KINDS = ("*.safetensors", "*.bin", "*.pt", "*.pth")
_PARALLEL = "module."


def open_weights(folder: Path, names: tuple[str, ...] = NAMES) -> Mapping[str, Tensor]:
    """Return the tensors of the first file of `names` that a folder has, or of the only one that
    it has by another name.

    An index (`….index.json`) names the files of a checkpoint in parts. Raises `UserError` where
    there is no such file, or one cannot be read.
    """
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    path = path or _only_file(folder, names)
    if path.name.endswith(".index.json"):
        return LazyTensors(dict(_indexed(path)))
    return open_tensors(path)


def _only_file(folder: Path, names: tuple[str, ...]) -> Path:
    """Return a folder's only file of weights, such as a training checkpoint of open_clip's."""
    found = sorted(path for kind in _KINDS for path in folder.glob(kind))
    if not found:
        raise UserError(f"{folder} has no weights: none of {', '.join(names)}")
    if len(found) > 1:
        several = ", ".join(path.name for path in found)
        raise UserError(f"{folder} has several files of weights ({several}); leave one of them")
    return found[0]


def open_tensors(path: Path) -> Mapping[str, Tensor]:
    """Return the tensors of a safetensors file, or of a PyTorch file, read when asked for.

    Of a training checkpoint they are its `state_dict`, without the prefix of a parallel model.
    """
    if path.suffix == ".safetensors":
        return LazyTensors(dict(_in_file(path)))
    tensors = load_tensors(path, mapped=True)
    if isinstance(tensors, dict):
        tensors = tensors.get("state_dict", tensors)
    if not isinstance(tensors, dict) or not all(
        isinstance(one, Tensor) for one in tensors.values()
    ):
        raise UserError(f"{path} has no state dict; save that (torch.save(model.state_dict(), …))")
    wrapped = all(name.startswith(_PARALLEL) for name in tensors)
    return {name.removeprefix(_PARALLEL) if wrapped else name: tensors[name] for name in tensors}


def _in_file(path: Path) -> Iterator[tuple[str, Any]]:
    from safetensors import SafetensorError, safe_open

    check_tensor_file(path)
    try:
        file = safe_open(path, framework="pt")
        for name in file.keys():  # noqa: SIM118 - a file, not a dictionary
            yield name, lambda name=name: file.get_tensor(name)
    except SafetensorError as error:
        raise UserError(f"{path} {DAMAGED} ({error})") from None


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
