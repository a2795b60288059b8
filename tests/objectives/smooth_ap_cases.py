"""Smooth average precision, one query and one positive at a time."""

from functools import partial

import torch
from torch import Tensor, nn

from tests.objectives.equivalence import Case, Inputs, pair_batches
from xmodal.objectives.smooth_ap import SmoothAp

TILE = 5  # so that even these small batches take several tiles, the last ones cut short


def share(module: nn.Module, inputs: Inputs) -> Tensor:
    return module(inputs["x"], inputs["y"], inputs["ids"])


def naive(module: nn.Module, inputs: Inputs) -> Tensor:
    """1 less the mean average precision of the queries of both media."""
    x, y, ids = inputs.values()
    scores = x @ y.T
    queries = [*zip(scores, ids, strict=True), *zip(scores.T, ids, strict=True)]
    return 1 - torch.stack([precision(module, row, ids == own) for row, own in queries]).mean()


def precision(module: nn.Module, scores: Tensor, same: Tensor) -> Tensor:
    terms, row = [], scores / module.temperature
    for p in same.nonzero()[:, 0]:
        above = (row - row[p]).sigmoid()
        others = same.clone()
        others[p] = False
        rank_within = 1 + above[others].sum()
        terms.append(rank_within / (rank_within + above[~same].sum()))
    return torch.stack(terms).mean()


CASES = [
    Case("smooth AP", partial(SmoothAp, temperature=0.2, tile=TILE), share, naive, pair_batches())
]
