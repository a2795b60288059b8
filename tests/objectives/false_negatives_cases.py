"""Objectives that skip pairs whose y are alike, by the full matrix without those pairs."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.objectives import info_nce_cases, sigmoid_cases, triplet_cases
from tests.objectives.equivalence import Case, Inputs, pair_batches
from xmodal.objectives.pairs import LimitedIds

LIMIT = 0.3  # about a quarter of the pairs


def share(module: nn.Module, inputs: Inputs) -> Tensor:
    return module(inputs["x"], inputs["y"], LimitedIds(inputs["ids"], LIMIT))


def negative(inputs: Inputs) -> Tensor:
    """Where pairs are negatives, (pairs, pairs)."""
    y, ids = inputs["y"].detach(), inputs["ids"]
    return (ids[:, None] != ids) & (y @ y.T <= LIMIT)


def info_nce(module: nn.Module, inputs: Inputs) -> Tensor:
    scores = module.log_scale.exp() * inputs["x"] @ inputs["y"].T
    counted = negative(inputs) | torch.eye(len(scores), dtype=torch.bool)
    kept, own = scores.masked_fill(~counted, -torch.inf), scores.diagonal()
    return (kept.logsumexp(1) + kept.logsumexp(0) - 2 * own).mean() / 2


def sigmoid(module: nn.Module, inputs: Inputs) -> Tensor:
    logits = module.log_scale.exp() * inputs["x"] @ inputs["y"].T + module.bias
    costs = F.softplus(-logits.diagonal()) + (F.softplus(logits) * negative(inputs)).sum(1)
    return costs.mean()


def hinges(module: nn.Module, inputs: Inputs) -> Tensor:
    scores, negatives = inputs["x"] @ inputs["y"].T, negative(inputs)
    own, total = scores.diagonal(), 0.0
    for each, limit in ((scores, own[:, None]), (scores.T, own[:, None])):
        costs = F.relu(module.margin + each - limit).masked_fill(~negatives, 0)
        if module.negatives == "hardest":
            places = each.detach().masked_fill(~negatives, -torch.inf).argmax(1, keepdim=True)
            costs = costs.gather(1, places)
        total = total + costs.sum() / len(own)
    return total + 0 * (inputs["x"].sum() + inputs["y"].sum())


BATCHES = {
    name: inputs
    for name, inputs in pair_batches().items()
    if name in {"random", "an image twice", "five labels", "scores of 100", "all alike"}
}
CASES = [
    Case(name, make, share, naive, BATCHES)
    for name, make, naive in [
        ("alike: info_nce", partial(info_nce_cases.info_nce, 3.0), info_nce),
        ("alike: sigmoid", sigmoid_cases.CASES[0].module, sigmoid),
        ("alike: triplet", partial(triplet_cases.triplet, negatives="sum", warmup=0), hinges),
        (
            "alike: triplet, hardest",
            partial(triplet_cases.triplet, negatives="hardest", warmup=0),
            hinges,
        ),
    ]
]
