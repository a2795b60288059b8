"""Modules that are trained against the encoders, in the same backward pass."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def held_fixed(opponent: nn.Module) -> Iterator[None]:
    """Let what is computed within pass gradients through a module and none to its parameters.

    Their flags change, and no detached tensors take their place: ZeRO-3 gathers the parameters
    that it knows when the module is called.
    """
    trained = [parameter for parameter in opponent.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
