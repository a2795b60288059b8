"""Blocks of an encoder: the modules that it repeats, and how they are computed in training.

A block keeps its class, its parameters and their names; only its `forward` is another one, within
the hooks of whoever prepares its weights.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Concatenate

from torch import nn

from xmodal.models.encoder import Encoder

Forward = Callable[..., Any]
Around = Callable[Concatenate[Forward, ...], Any]  # computes a block by its forward and arguments


def blocks_of(encoder: Encoder) -> dict[str, nn.Module]:
    """Return the blocks of an encoder by name, from the input to the output.

    An encoder that reads word by word, or that repeats nothing, has none.
    """
    found = (_block(encoder, names) for names in encoder.names_by_depth()[1:])
    return {name: encoder.get_submodule(name) for name in found if name}


def compute_by(block: nn.Module, around: Around) -> None:
    """Have a block computed by `around`, which is called with its forward and its arguments.

    A deep copy of the block computes itself, not the block that it was copied from.
    """
    block.forward = partial(around, block.forward)


def _block(encoder: Encoder, names: list[str]) -> str | None:
    """Return the name of the block that a group of parameters is of: the largest module of a row
    whose parameters all are in the group. What follows the last block is in its group too.
    """
    group, found = set(names), dict[str, int]()
    for prefix in {prefix: None for name in names for prefix in _places_in_rows(name)}:
        module = encoder.get_submodule(prefix)
        sizes = {f"{prefix}.{name}": one.numel() for name, one in module.named_parameters()}
        if sizes.keys() <= group and not isinstance(module, nn.ModuleList):
            found[prefix] = sum(sizes.values())
    return max(found, key=found.__getitem__, default=None)


def _places_in_rows(name: str) -> list[str]:
    """Return the names of the modules around a parameter that are numbers in a row of modules."""
    parts = name.split(".")[:-1]
    return [".".join(parts[: n + 1]) for n, part in enumerate(parts) if part.isdigit()]
