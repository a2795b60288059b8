"""Circle loss, by the full matrix."""

from functools import partial

import torch
from torch import Tensor, nn

from tests.objectives.equivalence import Case, Inputs, pair_batches
from xmodal.objectives.circle import Circle

TILE = 5  # so that even these small batches take several tiles, the last ones cut short


def share(module: nn.Module, inputs: Inputs) -> Tensor:
    return module(inputs["x"], inputs["y"], inputs["ids"])


def naive(module: nn.Module, inputs: Inputs) -> Tensor:
    """The mean of log(1 + Σ Σ) over the queries of both media."""
    x, y, ids = inputs.values()
    scores = x @ y.T
    queries = [*zip(scores, ids, strict=True), *zip(scores.T, ids, strict=True)]
    return torch.stack([of_query(module, row, ids == own) for row, own in queries]).mean()


def of_query(module: nn.Module, scores: Tensor, same: Tensor) -> Tensor:
    """log(1 + Σ Σ) of a query's scores, of which some are positives; weights detached."""
    m = module.margin
    of_negatives = (scores + m).relu().detach() * (scores - m)
    of_positives = -(1 + m - scores).relu().detach() * (scores - 1 + m)
    n = (module.scale * of_negatives).masked_fill(same, -torch.inf)
    p = (module.scale * of_positives).masked_fill(~same, -torch.inf)
    total = n.logsumexp(0) + p.logsumexp(0)
    return torch.logaddexp(total, torch.zeros_like(total))


CASES = [
    Case("circle", partial(Circle, scale=8.0, margin=0.25, tile=TILE), share, naive, pair_batches())
]
