"""Adapters of low rank (LoRA, Hu et al. 2022; DoRA, Liu et al. 2024) on any encoder, by peft.

An adapted layer computes W x + (alpha / rank) B A x, with W locked and B zero at first; under DoRA
each row of W + (alpha / rank) B A is scaled to a learned norm.
"""

from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear as NeverCalled

from xmodal.errors import UserError
from xmodal.extras import require
from xmodal.models.adapter_files import load_adapter
from xmodal.models.attention import SplitAttention, join_attention, split_attention
from xmodal.models.config import LoraConfig
from xmodal.models.encoder import Encoder
from xmodal.models.layer_groups import encoders_of

_MARK = ".lora_"  # in the names of all parameters of adapters


def add_adapters(encoder: Encoder, config: LoraConfig, key: str) -> None:
    """Add adapters to layers of an encoder, read from a folder where the configuration names one.

    Raises `UserError`, which names the recipe's `key`, for targets that the encoder does not have
    and for weights that do not fit.
    """
    require("pretrained")
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model

    network = encoder.wrapped
    split_attention(network)
    peft_config = PeftConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # which it divides
        lora_dropout=config.dropout,
        use_dora=config.dora,
        target_modules=_targets(network, config, key),
    )
    inject_adapter_in_model(peft_config, network)
    if config.weights:
        load_adapter(encoder, Path(config.weights), key)


def has_adapters(encoder: Encoder) -> bool:
    """Return whether an encoder has adapters."""
    return any(_MARK in name for name, _ in encoder.named_parameters())


def adapted_encoders(method: nn.Module) -> dict[str, Encoder]:
    """Return the encoders of a method that have adapters, by name."""
    return {name: one for name, one in encoders_of(method).items() if has_adapters(one)}


def adapted_weights(method: nn.Module) -> set[str]:
    """Return the names of the weights that adapters are trained in the place of."""
    return {
        f"{prefix}.{name}"
        for prefix, encoder in adapted_encoders(method).items()
        for name, _ in encoder.named_parameters()
        if _MARK not in name
    }


def borrowed_weights(method: nn.Module) -> Iterator[tuple[nn.Module, nn.Parameter]]:
    """Yield the modules of DoRA, each with a weight of the layer beside it, which it reads."""
    for layer in method.modules():
        for dora in getattr(layer, "lora_magnitude_vector", {}).values():
            for parameter in layer.base_layer.parameters():  # type: ignore[union-attr]
                yield dora, parameter


def base_weights(method: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a method by the names that they have without adapters."""
    halves = {
        f"{name}.in_proj.": f"{name}.in_proj_"
        for name, part in method.named_modules()
        if isinstance(part, SplitAttention)
    }
    weights = {}
    for name, tensor in method.state_dict().items():
        if _MARK not in name:
            name = name.replace(".base_layer.", ".")
            of_half = next((half for half in halves if name.startswith(half)), "")
            weights[name.replace(of_half, halves[of_half]) if of_half else name] = tensor
    return weights


def merge_adapters(method: nn.Module) -> None:
    """Add the adapters of a method to its weights: its modules and names are those without any."""
    for encoder in adapted_encoders(method).values():
        from peft.tuners.lora import LoraLayer

        network: Any = encoder.wrapped
        for name, layer in list(network.named_modules()):
            if isinstance(layer, LoraLayer):
                layer.merge()
                network.set_submodule(name, layer.get_base_layer())
        join_attention(network)
        del network.peft_config


def _targets(network: nn.Module, config: LoraConfig, key: str) -> list[str]:
    """Return the names of the modules of an encoder's network that get adapters."""
    kinds = dict(_layers(network))
    found: set[str] = set()
    for target in config.targets:
        named = {
            name
            for name, kind in kinds.items()
            if kind == target or fnmatch(name, target) or fnmatch(name, f"*.{target}")
        }
        if not named:
            there = ", ".join(sorted(set(kinds.values()))) or "none that adapters are made for"
            raise UserError(
                f"{key}.targets: the encoder has no layer {target!r}; its kinds of layers: {there}"
            )
        found |= named
    parts = dict(network.named_modules())
    halved = {
        parent
        for parent in (name.rpartition(".")[0] for name in found)
        if isinstance(parts[parent], SplitAttention)
    }
    if config.dora and halved:
        raise UserError(
            f"{key}.dora: peft has no DoRA for PyTorch's attention; write {key}.targets: [mlp]"
        )
    # peft adapts both projections of such attention, or none.
    return sorted(found | {f"{one}.{half}" for one in halved for half in ("in_proj", "out_proj")})


def _layers(network: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the name of each layer that can get an adapter, and its kind."""
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            if module.kernel_size == (1, 1) and module.groups == 1:
                yield name, "convolutions"
        elif isinstance(module, nn.Linear) and not isinstance(module, NeverCalled):
            yield name, "attention" if "attn" in name or "attention" in name.lower() else "mlp"
