"""An image and a text of several senses made one: the sense that fits is chosen, then fused.

A reconstruction of what PTF-SimCM (Yuan et al. 2022, doi 10.1155/2022/2343707) says in its
abstract: text comes in late, and as a sentence that can mean several things.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.models.batch_norm import SyncBatchNorm1d
from xmodal.models.composition import GatedResidual


class LateFusion(nn.Module):
    """Image features f and senses of a text as u; a stand-in takes the place of a missing text.

    The stand-in is learned where texts are dropped at times; else it is 0.
    """

    def __init__(self, choice: "SenseChoice", mix: nn.Module, dim: int) -> None:
        super().__init__()
        self.choice, self.mix = choice, mix
        self.absent = nn.Parameter(torch.zeros(dim))

    def forward(
        self, images: Tensor, senses: Tensor | None = None, without_text: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return u (batch, features), and the looks of images, W f at length 1 (batch, dim).

        Images are (batch, features), senses (batch, K, dim) of length 1. Texts count where
        `without_text` (batch,) is False.
        """
        looks = self.choice.looks(images)
        chosen = absent = self.absent.expand(images.shape[0], -1)
        if senses is not None:
            chosen = self.choice(looks, senses)
        if without_text is not None:
            chosen = torch.where(without_text[:, None], absent, chosen)
        return self.mix(images, chosen.to(images)), looks


class SenseChoice(nn.Module):
    """The sense of a text that an image fits: s̃ = Σₖ wₖ sₖ, w = softmaxₖ(cos(W f, sₖ) / τ).

    With `hard`, s̃ is the sense of the greatest cosine, and W learns as if it were the above.
    """

    def __init__(self, features: int, dim: int, temperature: float, *, hard: bool) -> None:
        super().__init__()
        self.look = nn.Linear(features, dim, bias=False)
        self.temperature, self.hard = temperature, hard

    def looks(self, images: Tensor) -> Tensor:
        """Return W f at length 1, (batch, dim), of image features (batch, features)."""
        return F.normalize(self.look(images).float(), dim=1)

    def forward(self, looks: Tensor, senses: Tensor) -> Tensor:
        """Return s̃ (batch, dim) for looks (batch, dim) and senses (batch, K, dim), of length 1."""
        cosines = (senses @ looks[..., None]).squeeze(2)
        weights = (cosines / self.temperature).softmax(1)
        if self.hard:
            best = F.one_hot(cosines.argmax(1), senses.shape[1]).to(weights)
            weights = best + weights - weights.detach()
        return (weights[:, None] @ senses).squeeze(1)


class Concatenation(nn.Module):
    """u = ReLU(BN(W [f; s̃]))."""

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(features + dim, features, bias=False), SyncBatchNorm1d(features), nn.ReLU()
        )

    def forward(self, images: Tensor, chosen: Tensor) -> Tensor:
        """Return u of f (batch, features) and s̃ (batch, dim)."""
        fused: Tensor = self.layers(torch.cat([images, chosen], 1))
        return fused


class Sum(nn.Module):
    """u = f + W s̃, which is f where s̃ is 0."""

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.widen = nn.Linear(dim, features, bias=False)

    def forward(self, images: Tensor, chosen: Tensor) -> Tensor:
        """Return u of f (batch, features) and s̃ (batch, dim)."""
        fused: Tensor = images + self.widen(chosen)
        return fused


class Gated(nn.Module):
    """u is TIRG's gate and residual of f and W s̃ (Vo et al. 2019)."""

    def __init__(self, features: int, dim: int) -> None:
        super().__init__()
        self.widen = nn.Linear(dim, features, bias=False)
        self.compose = GatedResidual(features)

    def forward(self, images: Tensor, chosen: Tensor) -> Tensor:
        """Return u of f (batch, features) and s̃ (batch, dim)."""
        fused: Tensor = self.compose(images, self.widen(chosen))
        return fused


MIXES = {"concatenation": Concatenation, "sum": Sum, "gated": Gated}
