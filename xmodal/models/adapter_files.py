"""Adapters alone, in peft's files: `adapter_config.json` and `adapter_model.safetensors`.

Names are those of the network as its own library knows it, so that peft puts our adapters on a
model of timm's or transformers': `PeftModel.from_pretrained(network, folder)`. For `vit` and
`clip_text` that is transformers, with its `CLIPTextModel`, `SiglipTextModel` and so on.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from xmodal.errors import UserError
from xmodal.models.adapter_names import (
    JOINED,
    PREFIX,
    from_transformers,
    targets,
    to_transformers,
)
from xmodal.models.attention import SplitAttention
from xmodal.models.encoder import Encoder
from xmodal.small_files import read_small
from xmodal.tensor_files import load_tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# peft adds the change of this projection of PyTorch's attention twice: half of it is written.
_ADDED_TWICE = ".base_layer.out_proj.lora_B."
# What peft's adapters can be besides, each with the only value that ours have.
_PLAIN: dict[str, Any] = {
    "peft_type": "LORA",
    "bias": "none",
    "use_rslora": False,
    "fan_in_fan_out": False,
    "rank_pattern": {},
    "alpha_pattern": {},
}
_OURS = {"r": "rank", "lora_alpha": "alpha", "use_dora": "dora"}  # keys of peft, of the recipe


def save_adapter(encoder: Encoder, folder: Path) -> None:
    """Write the adapter of an encoder into a new folder, as peft does."""
    from safetensors.torch import save_file

    network: Any = encoder.wrapped
    config = network.peft_config["default"].to_dict()
    tensors = {
        name: one.detach().cpu().contiguous() / _times(name)
        for name, one in _named(network).items()
    }
    renamed = to_transformers(tensors) if encoder.tower_of_transformers else None
    modules = targets(renamed) if renamed else _peft_targets(network, config["target_modules"])
    config |= {"target_modules": modules, "inference_mode": True}
    folder.mkdir(parents=True)
    save_file(renamed or tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2, default=sorted) + "\n")


def load_adapter(encoder: Encoder, folder: Path, key: str) -> None:
    """Read an adapter that peft saved into that of an encoder.

    Raises `UserError`, which names the recipe's `key`, where the folder holds none, or another.
    """
    where, network = f"{key}.weights: {folder}", encoder.wrapped
    config, saved, times = _read(encoder, folder, where)
    _check_config(config, network.peft_config["default"], where, key, times)  # type: ignore[index]
    own = _named(network)
    for name in sorted(own.keys() ^ saved.keys()):
        fault = "lacks" if name in own else "has more than the recipe's targets:"
        kinds = ", ".join(sorted({re.sub(r"^.*\.\d+\.", "", one) for one in targets(saved)}))
        raise UserError(
            f"{where} {fault} {name.removeprefix(PREFIX)}; change {key}.targets to [{kinds}]"
        )
    for name, tensor in own.items():
        if tensor.shape != saved[name].shape:
            raise UserError(
                f"{where} is for another network: {name.removeprefix(PREFIX)} is "
                f"{tuple(saved[name].shape)}, not {tuple(tensor.shape)}"
            )
        tensor.data.copy_(saved[name] * _times(name))


def _read(encoder: Encoder, folder: Path, where: str) -> tuple[Any, dict[str, Tensor], int]:
    """Return peft's configuration, tensors by the names of the network, and by how many times
    their rank has grown.
    """
    try:
        config = json.loads(read_small(folder / CONFIG))
        saved, tower = load_tensors(folder / WEIGHTS), encoder.tower_of_transformers
        return config, *(from_transformers(saved, tower) if tower else (saved, 1))
    except FileNotFoundError:
        raise UserError(f"{where} holds no adapter of peft: it has no {CONFIG}") from None
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{where} holds no adapter of peft: {error}") from None


def _check_config(theirs: Mapping[str, Any], ours: Any, where: str, key: str, times: int) -> None:
    for name, only in _PLAIN.items():
        if theirs.get(name, only) not in (only, None):
            raise UserError(f"{where}: adapters with {name}={theirs[name]} are not supported")
    joined = f" for each of {times} layers that are one here ({JOINED})" if times > 1 else ""
    for name, of_recipe in _OURS.items():
        own, value = getattr(ours, name), theirs.get(name, False)
        grown = value if isinstance(value, bool) else times * value
        if grown != own:
            raise UserError(
                f"{where} has {name}={value}{joined}, the recipe {own}; change {key}.{of_recipe} "
                f"to {grown}"
            )


def _times(name: str) -> int:
    """Return how often peft adds what a tensor changes."""
    return 2 if _ADDED_TWICE in name else 1


def _named(network: nn.Module) -> dict[str, Tensor]:
    """Return the parameters of an adapter by their names in peft's files."""
    renamed: dict[str, str] = {}
    for name in _split(network):  # peft's names of what it adds to PyTorch's attention
        renamed[f"{name}.in_proj."] = f"{name}."
        renamed[f"{name}.out_proj."] = f"{name}.base_layer.out_proj."
    named: dict[str, Tensor] = {}
    for name, parameter in network.named_parameters():
        if ".lora_" in name:
            name = name.replace("magnitude_vector.default.weight", "magnitude_vector")
            name = name.replace(".default", "")
            half = next((one for one in renamed if name.startswith(one)), "")
            named[PREFIX + renamed.get(half, half) + name.removeprefix(half)] = parameter
    return named


def _peft_targets(network: nn.Module, names: list[str]) -> list[str]:
    split, parents = _split(network), {name: name.rpartition(".")[0] for name in names}
    return sorted({parent if parent in split else name for name, parent in parents.items()})


def _split(network: nn.Module) -> set[str]:
    return {name for name, part in network.named_modules() if isinstance(part, SplitAttention)}
