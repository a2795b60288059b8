"""Batch classification, by the full matrix."""

import torch
from torch import Tensor, nn

from tests.objectives.equivalence import Case, Inputs, pair_batches
from xmodal.objectives.batch_classification import BatchClassification

TILE = 5  # so that even these small batches take several tiles, the last ones cut short


def batch_classification() -> BatchClassification:
    return BatchClassification(tile=TILE).double()


def share(module: nn.Module, inputs: Inputs) -> Tensor:
    return module(inputs["x"], inputs["y"], inputs["ids"])


def naive(module: nn.Module, inputs: Inputs) -> Tensor:
    """Cross-entropy with each row's own column, other columns of its id skipped."""
    x, y, ids = inputs.values()
    x, y = (module.norm * side / side.pow(2).sum(1, keepdim=True).sqrt() for side in (x, y))
    left_out = (ids[:, None] == ids) & ~torch.eye(len(x), dtype=torch.bool)
    logits = (x @ y.T).masked_fill(left_out, -torch.inf)
    return nn.functional.cross_entropy(logits, torch.arange(len(x)))


CASES = [
    Case("batch classification", batch_classification, share, naive, pair_batches()),
]
