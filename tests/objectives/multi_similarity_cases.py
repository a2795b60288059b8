"""Multi-similarity loss, one anchor at a time."""

from functools import partial

import torch
from torch import Tensor, nn

from tests.objectives.equivalence import Case, Inputs, pair_batches
from xmodal.objectives.multi_similarity import MultiSimilarity

TILE = 5  # so that even these small batches take several tiles, the last ones cut short


def share(module: nn.Module, inputs: Inputs) -> Tensor:
    return module(inputs["x"], inputs["y"], inputs["ids"])


def naive(module: nn.Module, inputs: Inputs) -> Tensor:
    """The mean over the anchors of both media, the pairs of each mined as in the paper."""
    x, y, ids = inputs.values()
    scores = x @ y.T
    anchors = [*zip(scores, ids, strict=True), *zip(scores.T, ids, strict=True)]
    return torch.stack([of_anchor(module, row, ids == own) for row, own in anchors]).mean()


def of_anchor(module: nn.Module, row: Tensor, same: Tensor) -> Tensor:
    positives, negatives = row[same], row[~same]
    hard_positives = positives[:0]
    hard_negatives = negatives[negatives > positives.min() - module.epsilon]
    if len(negatives):
        hard_positives = positives[positives < negatives.max() + module.epsilon]
    return (
        _log_of_sum(-module.alpha * (hard_positives - module.threshold)) / module.alpha
        + _log_of_sum(module.beta * (hard_negatives - module.threshold)) / module.beta
    )


def _log_of_sum(values: Tensor) -> Tensor:
    """Return log(1 + Σ exp v)."""
    return torch.cat([values, values.new_zeros(1)]).logsumexp(0)


CASES = [
    Case(
        "multi-similarity",
        partial(MultiSimilarity, beta=10.0, threshold=0.5, epsilon=0.3, tile=TILE),
        share,
        naive,
        pair_batches(),
    )
]
