"""Images against texts and texts against images, in triplets drawn by label."""

import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.objectives.label_sampling import LabelledBatch


class DoubleTriplet(nn.Module):
    """Double triplet loss over triplets drawn by label (UNCSM, Qi et al. 2017, arXiv 1704.04333).

    L = (1/2S) Σ [m + α|x − y⁺|² − |x − y⁻|²]₊ + (1/2S) Σ [m + α|y − x⁺|² − |y − x⁻|²]₊, over the S
    triplets of each direction in the global batch. A positive has its anchor's label, and may be
    of the same pair.
    """

    def __init__(
        self, *, count: int = 3, margin: float = 1.0, positive_weight: float = 1.0
    ) -> None:
        super().__init__()
        self.count, self.margin, self.positive_weight = count, margin, positive_weight
        self.monitors: dict[str, Tensor] = {}

    def forward(self, x: Tensor, y: Tensor, labels: Tensor, seed: int) -> Tensor:
        """Return this rank's share of the loss, (), of (pairs, dim), (pairs, dim), (pairs,).

        `seed` is of the triplets, and the same on all ranks.
        """
        batch = LabelledBatch.of(x, y, labels)
        drawn = batch.draw_across(self.count, seed)
        positive, negative = batch.squared_distances(drawn)
        hinges = F.relu(self.margin + self.positive_weight * positive - negative)
        return batch.mean(hinges, drawn)
