"""Two views of one image that predict each other."""

from torch import Tensor, nn

from xmodal.distributed.collectives import row_counts, share_of_mean, sum_over_ranks
from xmodal.objectives.numerics import unit
from xmodal.objectives.pairwise.tiles import precise


class NegativeCosine(nn.Module):
    """SimSiam's symmetric loss (Chen and He 2021, arXiv 2011.10566, equations 1 to 4).

    L = ½ D(p¹, sg z²) + ½ D(p², sg z¹), the mean over the global batch, D(p, z) = −cos(p, z), sg
    the gradient stopped, z the projection of a view and p the prediction from it. The cosine
    with a zero vector is 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.monitors: dict[str, Tensor] = {}

    def forward(self, p1: Tensor, p2: Tensor, z1: Tensor, z2: Tensor) -> Tensor:
        """Return this rank's share of the loss, (), of (batch, dim) each."""
        counts = row_counts(p1)
        z1, z2 = (unit(precise(z.detach())) for z in (z1, z2))
        p1, p2 = unit(precise(p1)), unit(precise(p2))
        # Near 1/√dim where directions are spread, 0 where all embeddings have become one.
        self.monitors = {"channel_std": channel_std(z1, sum(counts))}
        return -share_of_mean((p1 * z2).sum(1) + (p2 * z1).sum(1), counts) / 2


def channel_std(rows: Tensor, count: int) -> Tensor:
    """Return the channels' mean standard deviation, (), over all ranks' `count` rows."""
    mean = sum_over_ranks(rows.sum(0)) / count
    variance = sum_over_ranks((rows - mean).square().sum(0)) / count
    return variance.sqrt().mean()
