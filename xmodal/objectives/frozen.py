"""Gradients through a module whose parameters are not trained by them."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def frozen_parameters(module: nn.Module) -> Iterator[None]:
    """Pass gradients through a module within the context, and none to its parameters.

    For modules that are trained against the encoders in the same backward pass. Their flags change,
    and no detached tensors take their place: ZeRO-3 gathers the parameters that it knows when the
    module is called.
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
