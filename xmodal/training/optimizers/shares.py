"""Test of an optimiser on shares of the weights, as ZeRO deals them out."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.training.optimizers.config import OptimizerConfig

# So large that Adafactor factors its moments; of several steps, so that momenta count.
_ROWS, _COLUMNS, _STEPS = 32, 24, 4


def works_on_shares(config: OptimizerConfig) -> bool:
    """Return whether an optimiser steps each number of a matrix as if there were no others.

    ZeRO gives each rank flat shares of the weights: a step that depends on the matrix that a number
    stands in (Muon, Adafactor, LAMB) would become another one. This is measured: the same
    gradients move a matrix, and its two halves, each flat and with an optimiser of its own.
    """
    random = torch.Generator().manual_seed(0)
    weights, *gradients = (
        torch.randn(_ROWS, _COLUMNS, generator=random) for _ in range(1 + _STEPS)
    )
    # Orthogonal to the weights in each row: some optimisers look at that (AdamP).
    along = (gradients[0] * weights).sum(1) / (weights * weights).sum(1)
    gradients[0] = gradients[0] - along[:, None] * weights
    with torch.random.fork_rng(devices=[]):
        whole = _after_steps(config, weights, gradients)
        shares = zip(*(one.flatten().chunk(2) for one in (weights, *gradients)), strict=True)
        halves = [_after_steps(config, first, rest) for first, *rest in shares]
    return torch.allclose(whole.flatten(), torch.cat(halves), rtol=1e-4)


def _after_steps(config: OptimizerConfig, weights: Tensor, gradients: Sequence[Tensor]) -> Tensor:
    parameter = nn.Parameter(weights.clone())
    decay = getattr(config, "weight_decay", 0.0)
    groups: list[dict[str, Any]] = [{"params": [parameter], "weight_decay": decay}]
    optimizer = config.build(groups)
    optimizer.param_groups[0]["lr"] = 0.1
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()
    return parameter.detach()
