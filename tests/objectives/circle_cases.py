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
    """The mean of log(1 + Σ Σ) over rows and columns, weights detached."""
    x, y, ids = inputs.values()
    scores, same = x @ y.T, ids[:, None] == ids
    m = module.margin
    of_negatives = (scores + m).relu().detach() * (scores - m)
    of_positives = -(1 + m - scores).relu().detach() * (scores - 1 + m)
    n = (module.scale * of_negatives).masked_fill(same, -torch.inf)
    p = (module.scale * of_positives).masked_fill(~same, -torch.inf)
    sums = torch.cat([n.logsumexp(dim) + p.logsumexp(dim) for dim in (1, 0)])
    return torch.logaddexp(sums, torch.zeros_like(sums)).mean()


CASES = [
    Case("circle", partial(Circle, scale=8.0, margin=0.25, tile=TILE), share, naive, pair_batches())
]
