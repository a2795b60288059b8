"""Losses on several embeddings an item (PIE-Net): diverse, and alike over both modalities."""

from functools import partial

import torch
from torch import Tensor

from xmodal.distributed.collectives import gather, rank, row_counts, share_of_mean, world_size
from xmodal.objectives.numerics import unit
from xmodal.objectives.pairwise import pair_sum
from xmodal.objectives.pairwise.cells import laplacian
from xmodal.objectives.pairwise.tiles import precise


def diversity(residuals: Tensor) -> Tensor:
    """Return this rank's share of the diversity loss, (), of (batch, K, dim) of one modality.

    L_div = E[‖offdiag(R̂ R̂ᵀ)‖_F] / K² over the global batch, R̂ the K residuals of an item at length
    1 (PVSE: Song and Soleymani 2019, arXiv 1906.04402; the norm unsquared, as released). A zero
    residual, and a norm of 0, have no gradient.
    """
    embeddings_per_item = residuals.shape[1]
    directions = unit(precise(residuals))
    cosines = directions @ directions.mT
    diagonal = torch.eye(embeddings_per_item, dtype=torch.bool, device=cosines.device)
    others = cosines.masked_fill(diagonal, 0)
    norms = torch.linalg.vector_norm(others, dim=(1, 2))
    return share_of_mean(norms, row_counts(residuals)) / embeddings_per_item**2


def maximum_mean_discrepancy(
    x: Tensor, y: Tensor, *, gamma: float = 0.5, tile: int | None = None
) -> Tensor:
    """Return this rank's share of the squared MMD, (), between embeddings of two modalities.

    L_mmd = E[k(x, x')] − 2 E[k(x, y)] + E[k(y, y')] over all pairs of the global batch, an
    embedding with itself included, k(a, b) = exp(−γ ‖a − b‖), the norm not squared (PVSE as
    released). x and y are (batch, dim), or (batch, K, dim), whose K embeddings count as so many
    rows, as there. At distance 0, and at what rounding leaves of it, k has no gradient.
    """
    x, y = (precise(side).flatten(0, -2) for side in (x, y))
    sides = _Rows(x), _Rows(y)
    kernel = partial(_mean_kernel, gamma=gamma, tile=tile)
    return kernel(sides[0], sides[0]) - 2 * kernel(*sides) + kernel(sides[1], sides[1])


class _Rows:
    """A rank's rows beside those of all ranks."""

    def __init__(self, own: Tensor) -> None:
        self.counts = row_counts(own)
        self.own, self.all = own, gather(own, self.counts)
        self.places = torch.arange(len(self.all), device=own.device)  # ids: each row its own
        self.own_places = self.places.split(self.counts)[rank()]


def _mean_kernel(a: _Rows, b: _Rows, *, gamma: float, tile: int | None) -> Tensor:
    """Return the share of E[k] over all pairs of the rows of a with those of b."""
    total = pair_sum(
        partial(laplacian, gamma=gamma),
        a.own,
        b.all,
        (a.own_places, b.places) if a is b else None,
        row_offset=a.own.square().sum(1),
        column_offset=b.all.square().sum(1),
        tile=tile,
    )
    with_itself = len(a.own) if a is b else 0  # k is 1, without gradient
    return (total + with_itself) * (world_size() / (len(a.all) * len(b.all)))
