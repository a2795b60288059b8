"""Running statistics of batch normalisation, where samples are computed more than once."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def running_statistics_kept(module: nn.Module) -> Iterator[None]:
    """Keep batch normalisation from counting samples that are encoded again later."""
    tracking = [norm for norm in batch_norms(module).values() if norm.track_running_stats]
    for norm in tracking:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in tracking:
            norm.track_running_stats = True


@contextmanager
def statistics_taken_again(module: nn.Module) -> Iterator[None]:
    """Keep batch normalisation from counting samples twice that are computed again in a backward
    pass, where it has to save what it saved in the forward pass.
    """
    tracking = [norm for norm in batch_norms(module).values() if norm.track_running_stats]
    momenta = [norm.momentum for norm in tracking]
    for norm in tracking:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(tracking, momenta, strict=True):
            norm.momentum = momentum
            assert norm.num_batches_tracked is not None
            norm.num_batches_tracked -= 1


def batch_norms(module: nn.Module) -> dict[str, nn.modules.batchnorm._BatchNorm]:
    """Return the layers that normalise over the batch, by name."""
    return {
        name: part
        for name, part in module.named_modules()
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.training
    }
