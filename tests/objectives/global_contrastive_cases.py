"""The global contrastive objective by its definition, with averages of samples from before."""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tests.objectives.equivalence import BATCH, Case, Inputs, pair_batches
from xmodal.objectives.global_contrastive import GlobalContrastive

TILE, SAMPLES, PROGRESS = 5, 40, 0.2


def global_contrastive(scale: float = 3.0, num_widths: int = 1, **given: Any) -> GlobalContrastive:
    """The objective in float64, with averages of all samples but some that have not come yet."""
    given |= {"num_samples": SAMPLES, "num_widths": num_widths}
    loss = GlobalContrastive(scale=scale, tile=TILE, **given).double()
    loss.log_scale.data.fill_(math.log(scale))  # it began in single precision
    generator = torch.Generator().manual_seed(1)
    logs = torch.randn(2 * num_widths, SAMPLES, generator=generator, dtype=torch.float64)
    loss.averages.log_averages = logs.index_fill(1, torch.arange(0, SAMPLES, 3), -torch.inf)
    loss.progress = PROGRESS
    return loss


def batches() -> dict[str, Inputs]:
    """Those of pairs, with the numbers of samples; one comes twice."""
    generator = torch.Generator().manual_seed(2)
    samples = torch.randperm(SAMPLES, generator=generator)[:BATCH]
    samples[20] = samples[2]
    return {name: {**inputs, "samples": samples} for name, inputs in pair_batches().items()}


def share(module: nn.Module, inputs: Inputs) -> Tensor:
    return module(*inputs.values())


def weight_of(module: nn.Module) -> float:
    """γ at a progress of the stage."""
    if module.progress >= module.gamma_decay:
        return module.gamma
    turn = math.pi * module.progress / module.gamma_decay
    return module.gamma + (1 - module.gamma) * (1 + math.cos(turn)) / 2


def naive(module: nn.Module, inputs: Inputs) -> Tensor:
    """The surrogate of SogCLR, whose value is that of the averages, from full matrices."""
    x, y, ids, samples = inputs.values()
    temperature = 1 / module.log_scale.exp()
    scores = x @ y.T / temperature
    negative = ids[:, None] != ids
    costs = []
    for number, each in enumerate((scores, scores.T)):
        exponentials = (each - each.diagonal()[:, None]).exp() * negative
        now = exponentials.sum(1) / negative.sum(1).clamp(min=1)
        before = module.averages.log_averages[number, samples].exp()
        weight = weight_of(module)
        average = torch.where(before == 0, now, (1 - weight) * before + weight * now).detach()
        surrogate = (now - now.detach()) / (module.epsilon + average)
        cost = temperature * (module.epsilon + average).log() + temperature.detach() * surrogate
        costs.append(torch.where(negative.any(1), cost, 0 * cost.nan_to_num(0)))
    return (costs[0] + costs[1]).mean() / 2 + (module.rho or 0) * temperature.sum()


CASES = [
    Case(name, partial(global_contrastive, **given), share, naive, batches())
    for name, given in {
        "global contrastive": {},
        "global contrastive, learned temperature": {"rho": 6.5, "epsilon": 1e-3},
        "global contrastive, without decay": {"gamma_decay": 0.0, "gamma": 0.6},
    }.items()
]
