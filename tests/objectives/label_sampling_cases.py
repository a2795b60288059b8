"""Objectives over triplets drawn by label, a triplet at a time."""

from typing import Any

import torch
from torch import Tensor, nn

from tests.objectives.equivalence import Case, Inputs, pair_batches
from xmodal.objectives.double_triplet import DoubleTriplet
from xmodal.objectives.label_sampling import Triplets, sample_triplets
from xmodal.objectives.soft_triplet import SoftTriplet

SEED = 5


def listed(drawn: Triplets) -> list[tuple[int, int, int]]:
    """Each triplet's anchor, positive and negative."""
    return [
        (anchor, positive, negative)
        for anchor in drawn.exist.nonzero()[:, 0].tolist()
        for positive, negative in zip(
            drawn.positives[anchor].tolist(), drawn.negatives[anchor].tolist(), strict=True
        )
    ]


def double_triplet() -> DoubleTriplet:
    return DoubleTriplet()


def weighted_double_triplet() -> DoubleTriplet:
    return DoubleTriplet(count=1, margin=0.3, positive_weight=5)


def soft_triplet() -> SoftTriplet:
    return SoftTriplet()


def soft_triplet_of_a_norm() -> SoftTriplet:
    return SoftTriplet(norm=1.5).double()


def share(module: nn.Module, inputs: Inputs) -> Tensor:
    return module(inputs["x"], inputs["y"], inputs["ids"], SEED)


def naive_double(module: nn.Module, inputs: Inputs) -> Tensor:
    """Half the mean over triplets of x and half that over triplets of y."""
    x, y, ids = inputs.values()
    drawn = sample_triplets(ids.repeat(2), ids, count=module.count, seed=SEED)
    costs: dict[bool, list[Any]] = {True: [], False: []}
    for a, p, n in listed(drawn):
        of_x = a < len(x)
        anchor, others = (x[a], y) if of_x else (y[a - len(x)], x)
        near, far = ((anchor - others[i]).pow(2).sum() for i in (p, n))
        costs[of_x].append((module.margin + module.positive_weight * near - far).relu())
    nothing = 0 * (x.sum() + y.sum())
    return nothing + sum(sum(some) / len(some) / 2 for some in costs.values() if some)


def naive_soft(module: nn.Module, inputs: Inputs) -> Tensor:
    """The mean over triplets among x and y together."""
    both, labels = torch.cat([inputs["x"], inputs["y"]]), inputs["ids"].repeat(2)
    if module.norm is not None:
        both = module.norm * both / both.norm(dim=1, keepdim=True)
    drawn = sample_triplets(labels, labels, count=module.count, seed=SEED, same_items=True)
    costs = [
        (1 + ((both[a] - both[p]).pow(2).sum() - (both[a] - both[n]).pow(2).sum()).exp()).log()
        for a, p, n in listed(drawn)
    ]
    return 0 * both.sum() + sum(costs) / max(1, len(costs))


CASES = [
    Case(name, module, share, naive, pair_batches(), dealt=True)
    for name, module, naive in (
        ("double triplet", double_triplet, naive_double),
        ("double triplet, weighted", weighted_double_triplet, naive_double),
        ("soft triplet", soft_triplet, naive_soft),
        ("soft triplet of a norm", soft_triplet_of_a_norm, naive_soft),
    )
]
