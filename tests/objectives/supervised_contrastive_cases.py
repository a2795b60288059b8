"""Supervised contrastive loss, one anchor at a time."""

from functools import partial

import torch
from torch import Tensor, nn

from tests.objectives.equivalence import Case, Inputs, pair_batches
from xmodal.objectives.supervised_contrastive import SupervisedContrastive

TILE = 5  # so that even these small batches take several tiles, the last ones cut short


def share(module: nn.Module, inputs: Inputs) -> Tensor:
    return module(inputs["x"], inputs["y"], inputs["ids"])


def naive(module: nn.Module, inputs: Inputs) -> Tensor:
    x, y, ids = inputs.values()
    items, labels = torch.cat([x, y]), ids.repeat(2)
    costs = []
    for i in range(len(items)):
        others = torch.arange(len(items)) != i
        logits = (items[others] @ items[i]) / module.temperature
        costs.append(-logits.log_softmax(0)[labels[others] == labels[i]].mean())
    return torch.stack(costs).mean()


CASES = [
    Case(
        "supervised contrastive",
        partial(SupervisedContrastive, temperature=0.3, tile=TILE),
        share,
        naive,
        pair_batches(),
    )
]
