"""Cross-entropy to a matrix of relevance, by the full matrices."""

import math
from functools import partial

import torch
from torch import Tensor, nn

from tests.objectives.equivalence import BATCH, Case, Inputs, pair_batches
from xmodal.objectives.soft_relevance import SoftRelevance

TILE = 5  # so that even these small batches take several tiles, the last ones cut short


def soft_relevance(**given: float) -> SoftRelevance:
    """The objective in float64."""
    loss = SoftRelevance(scale=3.0, temperature=0.4, tile=TILE, **given).double()
    loss.log_scale.data.fill_(math.log(3.0))  # it began in single precision
    return loss


def share(module: nn.Module, inputs: Inputs) -> Tensor:
    return module(*(inputs[name] for name in ("x", "y", "ids")), inputs.get("descriptions"))


def naive(module: nn.Module, inputs: Inputs) -> Tensor:
    x, y, ids = (inputs[name] for name in ("x", "y", "ids"))
    u = inputs.get("descriptions", y).detach()
    same = (ids[:, None] == ids).double()
    targets = (1 - module.weight) * same / same.sum(1, keepdim=True)
    targets = targets + module.weight * (u @ u.T / module.temperature).softmax(1)
    logits = module.log_scale.exp() * x @ y.T
    nothing = 0 * sum(values.sum() for values in inputs.values() if values.requires_grad)
    rows, columns = -targets * logits.log_softmax(1), -targets.T * logits.log_softmax(0)
    return (rows.sum() + columns.sum()) / (2 * len(x)) + nothing


def described() -> dict[str, Inputs]:
    generator = torch.Generator().manual_seed(8)
    labels = torch.rand(BATCH, 3, generator=generator, dtype=torch.float64).round()
    return {"random": pair_batches()["an image twice"] | {"descriptions": labels}}


CASES = [
    Case("soft relevance", partial(soft_relevance, weight=0.3), share, naive, pair_batches()),
    Case("soft relevance of labels", partial(soft_relevance, weight=1.0), share, naive,
         described()),
]  # fmt: skip
