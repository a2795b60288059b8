"""Embeddings matched to a prior: spread evenly over a cube."""

from typing import ClassVar

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor, nn

from xmodal.components.component import Buildable
from xmodal.devices import copy_to
from xmodal.distributed.collectives import mean_of_shares, rank, row_counts, share_of_mean
from xmodal.objectives.frozen import frozen_parameters
from xmodal.objectives.numerics import log1p_exp
from xmodal.objectives.pairwise.tiles import precise


class PriorConfig(Buildable):
    """Embeddings spread evenly, as a discriminator sees them (Deep InfoMax)."""

    weight: NonNegativeFloat = Field(1.0, description="weight of the encoders' part")
    penalty: NonNegativeFloat = Field(
        1.0, description="weight of the discriminator's squared gradient by its inputs"
    )
    builds: ClassVar[str] = "PriorMatching"


class PriorMatching(nn.Module):
    """Prior matching (Deep InfoMax: Hjelm et al. 2019, section 3.3), in one backward pass.

    Embeddings e become z = σ(e), which should look like u, uniform in [0, 1]^dim. A discriminator's
    logit D is trained by −E[log σ(D(u))] − E[log(1 − σ(D(z)))] with z detached, and by γ times the
    mean of ‖∇D‖² over all its inputs u and z (Mescheder et al. 2018: half of R₁ and R₂ each); the
    encoders by w times −E[log σ(D(z))], the form that does not saturate, with D frozen. Both are in
    the one value.
    """

    def __init__(self, *, weight: float = 1.0, penalty: float = 1.0) -> None:
        super().__init__()
        self.weight, self.penalty = weight, penalty
        self.monitors: dict[str, Tensor] = {}

    def forward(self, embeddings: Tensor, discriminator: nn.Module, seed: int) -> Tensor:
        """Return this rank's share, (), of (batch, dim) and a module (rows, dim) → (rows,), and ∇.

        The module returns logits and their slopes by its inputs, (rows, dim), which have gradients.
        The samples of the prior follow from the seed and the global batch, on any number of ranks.
        """
        counts = row_counts(embeddings)
        z = precise(embeddings).sigmoid()
        with frozen_parameters(discriminator):
            logits, _ = discriminator(z)
        fooled = share_of_mean(log1p_exp(-precise(logits)), counts)
        return self.weight * fooled + self._discriminator_loss(
            z.detach(), _uniform(z, counts, seed), discriminator, counts
        )

    def _discriminator_loss(
        self, z: Tensor, u: Tensor, discriminator: nn.Module, counts: list[int]
    ) -> Tensor:
        logits, slopes = discriminator(torch.cat([u, z]))
        of_u, of_z = precise(logits).chunk(2)
        loss = share_of_mean(log1p_exp(-of_u) + log1p_exp(of_z), counts)
        right = share_of_mean(((of_u > 0).to(z) + (of_z < 0).to(z)) / 2, counts)
        self.monitors = {"prior_accuracy": mean_of_shares(right)}
        return loss + self.penalty / 2 * share_of_mean(precise(slopes).square(), counts)


def _uniform(like: Tensor, counts: list[int], seed: int) -> Tensor:
    """Return this rank's rows of samples for the global batch, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    samples = torch.rand(sum(counts), like.shape[1], generator=generator, dtype=like.dtype)
    return copy_to(like.device, samples.split(counts)[rank()])
