"""The sigmoid objective, by the full matrix."""

import math
from functools import partial

import torch
from torch import Tensor, nn

from tests.objectives import triplet_cases
from tests.objectives.equivalence import Case, Inputs, pair_batches
from xmodal.objectives.sigmoid import Sigmoid

TILE = 5  # so that even these small batches take several tiles, the last ones cut short


def sigmoid(scale: float, bias: float) -> Sigmoid:
    """The objective in float64."""
    loss = Sigmoid(scale=scale, bias=bias, tile=TILE).double()
    loss.log_scale.data.fill_(math.log(scale))  # it began in single precision
    loss.bias.data.fill_(bias)
    return loss


def share(module: nn.Module, inputs: Inputs) -> Tensor:
    return module(inputs["x"], inputs["y"], inputs["ids"])


def naive(module: nn.Module, inputs: Inputs) -> Tensor:
    """−(1/B) Σ log σ(± logits), without pairs of the same id that are not the own one."""
    x, y, ids = inputs.values()
    own = torch.eye(len(x), dtype=torch.bool)
    logits = module.log_scale.exp() * triplet_cases.best_products(x, y) + module.bias
    costs = -nn.functional.logsigmoid(torch.where(own, logits, -logits))
    return costs[own | (ids[:, None] != ids)].sum() / len(x)


CASES = [
    Case("sigmoid", partial(sigmoid, 10.0, -10.0), share, naive, pair_batches()),
    Case("sigmoid, bias of 2.5", partial(sigmoid, 2.0, 2.5), share, naive, pair_batches()),
    Case(
        "sigmoid, 3 × 2 embeddings",
        partial(sigmoid, 2.0, -1.0),
        share,
        naive,
        {"random": triplet_cases.several_embeddings(3, 2)["random"]},
    ),
]
