"""InfoNCE in each of its forms, by the full matrix."""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tests.objectives.equivalence import Case, Inputs, pair_batches
from xmodal.objectives.info_nce import InfoNCE

TILE = 5  # so that even these small batches take several tiles, the last ones cut short


def info_nce(scale: float, **given: Any) -> InfoNCE:
    """The objective in float64."""
    loss = InfoNCE(scale=scale, tile=TILE, **given).double()
    loss.log_scale.data.fill_(math.log(scale))  # it began in single precision
    return loss


def share(module: nn.Module, inputs: Inputs) -> Tensor:
    return module(inputs["x"], inputs["y"], inputs["ids"])


def naive(module: nn.Module, inputs: Inputs) -> Tensor:
    """The mean cost of each row and column, its own pair's or all positives'."""
    x, y, ids = inputs.values()
    scores = module.log_scale.exp() * x @ y.T
    same = ids[:, None] == ids
    eye = torch.eye(len(x), dtype=torch.bool)
    many = module.positives == "same_id"
    positive, counted = (same, same | True) if many else (eye, ~same | eye)
    kept = scores.masked_fill(~counted, -torch.inf)
    costs = {
        dim: -((kept - kept.logsumexp(dim, keepdim=True)).masked_fill(~positive, 0)).sum(dim)
        / positive.sum(dim)
        for dim in (1, 0)
    }
    if module.direction == "both":
        return (costs[1] + costs[0]).mean() / 2
    return costs[1 if module.direction == "rows" else 0].mean()


CASES = [
    Case(name, partial(info_nce, scale=3.0, **given), share, naive, pair_batches())
    for name, given in {
        "info_nce": {},
        "info_nce, rows": {"direction": "rows"},
        "info_nce, columns": {"direction": "columns"},
        "info_nce, many positives": {"positives": "same_id"},
        "info_nce, many positives, rows": {"positives": "same_id", "direction": "rows"},
    }.items()
]
