"""Queries and targets together, in triplets drawn by label, without a margin."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.objectives.label_sampling import LabelledBatch, sample_triplets
from xmodal.objectives.numerics import log1p_exp


class SoftTriplet(nn.Module):
    """Soft triplet loss over triplets drawn by label (TIRG, Vo et al. 2019, arXiv 1812.07119).

    L = mean log(1 + exp(|a − p|² − |a − n|²)) over triplets of the global batch. Anchors are all
    queries x and all targets y; positives and negatives are of both, never the anchor itself.
    With `norm`, vectors are first brought to a length s, which is learned.
    The backward pass that was released with the paper gives half of this loss's gradient: to train
    at its learning rate, halve the loss.
    """

    def __init__(self, *, count: int = 3, norm: float | None = None) -> None:
        super().__init__()
        self.count = count
        # One element rather than none: ZeRO cannot partition a parameter without dimensions.
        self.norm = None if norm is None else nn.Parameter(torch.tensor([float(norm)]))
        self.monitors: dict[str, Tensor] = {}

    def forward(self, x: Tensor, y: Tensor, labels: Tensor, seed: int) -> Tensor:
        """Return this rank's share of the loss, (), of (pairs, dim), (pairs, dim), (pairs,).

        `seed` is of the triplets, and the same on all ranks.
        """
        if self.norm is not None:
            self.monitors = {"norm": self.norm.detach().clone()}
            x, y = (self.norm * F.normalize(side) for side in (x, y))
        batch = LabelledBatch.of(x, y, labels)
        both = batch.labels.repeat(2)
        drawn = sample_triplets(both, both, count=self.count, seed=seed, same_items=True)
        positive, negative = batch.squared_distances(drawn)
        return batch.mean(log1p_exp(positive - negative), drawn)
