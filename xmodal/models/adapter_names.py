"""Adapters of towers of CLIP and SigLIP by the names of the transformers library, and by ours.

There query, key and value are layers of their own; here they are one, `attn.qkv`. An adapter of
the joined layer is one of each, with the same A and a third of the rows of B. Three adapters of
rank r are one of rank 3 r: their A below each other, their B as blocks of a diagonal.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

Tensors = Mapping[str, Tensor]

PREFIX = "base_model.model."  # that peft puts before the names of a network
JOINED = "attn.qkv"
THIRDS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_LAYERS = {"attn.proj": "self_attn.out_proj", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
_LAYERS_OF = {theirs: ours for ours, theirs in _LAYERS.items()}
NORMS = "lora_magnitude_vector"
_OURS = re.compile(r"blocks\.(\d+)\.(attn\.qkv|attn\.proj|mlp\.fc[12])\.(lora_.+)")
_THEIRS = re.compile(
    r"(?:(\w+)\.)?encoder\.layers\.(\d+)\.(self_attn\.(?:[qkv]|out)_proj|mlp\.fc[12])\.(lora_.+)"
)


def to_transformers(tensors: Tensors) -> dict[str, Tensor] | None:
    """Return the tensors of adapters by the names of transformers.

    None where a layer has no place there: the pooling by attention of SigLIP is another module.
    """
    written: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = _OURS.fullmatch(name.removeprefix(PREFIX))
        if match is None:
            return None
        number, layer, part = match.groups()
        joined = layer == JOINED
        names = THIRDS if joined else (_LAYERS[layer],)
        parts = [tensor] * 3 if "lora_A" in part else tensor.chunk(3)
        for one, values in zip(names, parts if joined else [tensor], strict=True):
            written[f"{PREFIX}encoder.layers.{number}.{one}.{part}"] = values.clone()
    return written


def from_transformers(tensors: Tensors, tower: str) -> tuple[dict[str, Tensor], int]:
    """Return the tensors of adapters by our names, and how many times their rank they now have.

    `tower` is the part of a model of two towers that is read. Tensors that have other names keep
    them. Raises `ValueError` for DoRA of some of query, key and value alone.
    """
    layers: dict[tuple[str, str], dict[str, Tensor]] = defaultdict(dict)
    others: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        match = _THEIRS.fullmatch(name.removeprefix(PREFIX))
        if match is None:
            others[name] = tensor
        elif match[1] in (None, tower):
            layers[match[2], match[3]][match[4]] = tensor
    thirds: dict[str, dict[str, Tensors]] = defaultdict(dict)
    for (number, layer), adapter in sorted(layers.items()):
        if layer in THIRDS:
            thirds[number][layer] = adapter
    times = max(map(_times, thirds.values()), default=1)
    found = others
    for number, adapters in thirds.items():
        found |= _named(
            number, JOINED, _joined(adapters), times * _rank(next(iter(adapters.values())))
        )
    for (number, layer), adapter in layers.items():
        if layer not in THIRDS:
            found |= _named(number, _LAYERS_OF[layer], adapter, times * _rank(adapter))
    return found, times


def targets(names: Iterable[str]) -> list[str]:
    """Return the modules that tensors of adapters are for."""
    return sorted({name.removeprefix(PREFIX).partition(".lora_")[0] for name in names})


def _rank(adapter: Tensors) -> int:
    return len(adapter["lora_A.weight"])


def _times(thirds: Mapping[str, Tensors]) -> int:
    """Return 1 where the adapters of a layer have the same A, and else how many there are."""
    first, *others = [one["lora_A.weight"] for one in thirds.values()]
    return 1 if all(one.equal(first) for one in others) else len(thirds)


def _joined(thirds: Mapping[str, Tensors]) -> dict[str, Tensor]:
    """Return the adapter of a joined layer, of those of its query, key and value."""
    adapters, shared = list(thirds.values()), _times(thirds) == 1
    (rows, rank), rest = adapters[0]["lora_B.weight"].shape, {}
    down = torch.cat([one["lora_A.weight"] for one in adapters[: 1 if shared else None]])
    up = down.new_zeros(3 * rows, len(down))
    for place, (name, one) in enumerate(thirds.items()):
        row, column = THIRDS.index(name) * rows, 0 if shared else place * rank
        up[row : row + rows, column : column + rank] = one["lora_B.weight"]
    if NORMS in adapters[0]:
        if len(thirds) < len(THIRDS):
            raise ValueError("it has DoRA of some of q_proj, k_proj and v_proj, one layer here")
        rest = {NORMS: torch.cat([thirds[one][NORMS] for one in THIRDS])}
    return {"lora_A.weight": down, "lora_B.weight": up, **rest}


def _named(number: str, layer: str, adapter: Tensors, rank: int) -> dict[str, Tensor]:
    """Return the tensors of an adapter by our names, with a rank that may be larger."""
    down, up = adapter["lora_A.weight"], adapter["lora_B.weight"]
    lacking = rank - len(down)
    new = down.new_empty(lacking, down.shape[1])
    if lacking:
        nn.init.kaiming_uniform_(new, a=math.sqrt(5))  # as peft begins, beside a B of zero
    wide = {"lora_A.weight": torch.cat([down, new])}
    wide["lora_B.weight"] = nn.functional.pad(up, (0, lacking))
    return {
        f"{PREFIX}blocks.{number}.{layer}.{part}": one for part, one in {**adapter, **wide}.items()
    }
