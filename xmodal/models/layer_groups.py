"""Layers of an encoder by depth, as training names them.

One idea for all that treats layers differently: layers that stay locked (`stages.N.lock`), rates
that fall towards the input (`optimizer.layer_decay`), layers that get adapters (`lora.targets`).
The groups of a tower are those of its encoder (`Encoder.layers`): the embeddings (or the stem)
first, then each block, the last one with what follows it. The head comes after all of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatch

from torch import nn

from xmodal.errors import UserError
from xmodal.models.encoder import Encoder

EMBEDDINGS, BLOCKS, NORMS = "embeddings", "blocks", "norms"
Groups = dict[str, list[str]]  # names of parameters by group, from the input to the output


def layer_groups(encoder: Encoder) -> Groups:
    """Return the names of an encoder's parameters by group: `embeddings`, `blocks.0`, …"""
    first, *others = encoder.names_by_depth()
    return {EMBEDDINGS: first} | {f"{BLOCKS}.{i}": names for i, names in enumerate(others)}


def locked_layers(method: nn.Module, towers: Mapping[str, int | Sequence[str]]) -> set[str]:
    """Return the names of parameters that `stages.N.lock` locks.

    Of each tower its first groups, a number, or those that a list names, by name or pattern;
    `norms` are its normalisation layers. Raises `UserError` for what a tower does not have.
    """
    return {
        f"{name}.{parameter}"
        for tower, wanted in towers.items()
        for name, encoder in _towers(method, tower, "lock").items()
        for parameter in _selected(encoder, wanted, f"stages: lock.{tower}")
    }


def layer_factors(method: nn.Module, decays: Mapping[str, float]) -> dict[str, float]:
    """Return dⁿ by the names of parameters: d is the decay of their tower, and n the number of
    groups after theirs, the head of the tower included.

    Rates that fall so towards the input are those of BEiT (Bao et al. 2021, arXiv 2106.08254).
    Raises `UserError` for a tower that the method does not have.
    """
    return {
        f"{name}.{parameter}": decay ** (len(groups) - number)
        for tower, decay in decays.items()
        for name, encoder in _towers(method, tower, "optimizer: layer_decay").items()
        for groups in (encoder.names_by_depth(),)
        for number, group in enumerate(groups)
        for parameter in group
    }


def encoders_of(method: nn.Module) -> dict[str, Encoder]:
    """Return the encoders that a method is made of, by name."""
    return {name: one for name, one in method.named_modules() if isinstance(one, Encoder)}


def norms(network: nn.Module) -> Iterable[str]:
    """Return the names of the parameters of normalisation layers."""
    return [
        f"{name}.{parameter}"
        for name, module in network.named_modules()
        if "Norm" in type(module).__name__
        for parameter, _ in module.named_parameters(recurse=False)
    ]


def _towers(method: nn.Module, pattern: str, key: str) -> dict[str, Encoder]:
    encoders = encoders_of(method)
    found = {n: e for n, e in encoders.items() if fnmatch(n, pattern) or fnmatch(n, f"{pattern}.*")}
    if not found:
        known = ", ".join(sorted({name.split(".")[0] for name in encoders}))
        raise UserError(f"stages: {key}: {pattern!r} is no tower of the method; there are: {known}")
    return found


def _selected(encoder: Encoder, wanted: int | Sequence[str], where: str) -> Iterable[str]:
    groups = layer_groups(encoder)
    if isinstance(wanted, int):
        if wanted > len(groups):
            raise UserError(f"{where}: the tower has {_shown(groups)}, not {wanted}")
        return [name for group in list(groups)[:wanted] for name in groups[group]]
    named = groups | {NORMS: list(norms(encoder))}
    for pattern in wanted:
        if not any(fnmatch(name, pattern) for name in named):
            raise UserError(
                f"{where}: {pattern!r} is no group; the tower has {_shown(groups)}, and {NORMS}"
            )
    chosen = [names for group, names in named.items() if any(fnmatch(group, p) for p in wanted)]
    return [name for names in chosen for name in names]


def _shown(groups: Groups) -> str:
    blocks = len(groups) - 1
    row = f", {BLOCKS}.0 to {BLOCKS}.{blocks - 1}" if blocks > 1 else f", {BLOCKS}.0" * blocks
    return f"{blocks + 1} groups ({EMBEDDINGS}{row})"
