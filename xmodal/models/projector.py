"""Projector and predictor of SimSiam (Chen and He 2021, arXiv 2011.10566, section 3)."""

from torch import nn

from xmodal.models.batch_norm import SyncBatchNorm1d


class Projector(nn.Sequential):
    """The projection h, (batch, features) → (batch, dim): three layers, each of them normalised.

    Batch normalisation is over the global batch. The last one has neither scale nor shift, nor is
    it followed by a ReLU; no layer has a bias, which it would take away.
    """

    def __init__(self, features: int, dim: int) -> None:
        super().__init__(
            *_hidden(features, dim),
            *_hidden(dim, dim),
            nn.Linear(dim, dim, bias=False),
            SyncBatchNorm1d(dim, affine=False),
        )


class Predictor(nn.Sequential):
    """The predictor q, (batch, dim) → (batch, dim): two layers with a bottleneck between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__(*_hidden(dim, hidden), nn.Linear(hidden, dim))


def _hidden(before: int, after: int) -> list[nn.Module]:
    return [nn.Linear(before, after, bias=False), SyncBatchNorm1d(after), nn.ReLU()]
