"""Composition of an image and a text that modifies it: TIRG and its baselines.

The forms are those of Vo et al. 2019 (arXiv 1812.07119) and of the code released with it.
"""

import math

import torch
from torch import Tensor, nn

from xmodal.errors import UserError
from xmodal.models.batch_norm import SyncBatchNorm1d, SyncBatchNorm2d
from xmodal.models.config import Composition


class GatedResidual(nn.Module):
    """TIRG: f = a₀ σ(G) ⊙ φ_x + a₁ R, of c = [φ_x; φ_t] (equations 1 to 3).

    Gate G = W ReLU(BN(c)), residual R = W₂ ReLU(W₁ ReLU(BN(c))), each with its own normalisation;
    a₀ = 1 and a₁ = 10 at first, and learned.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(SyncBatchNorm1d(2 * dim), nn.ReLU(), nn.Linear(2 * dim, dim))
        self.residual = nn.Sequential(
            SyncBatchNorm1d(2 * dim),
            nn.ReLU(),
            nn.Linear(2 * dim, 2 * dim),
            nn.ReLU(),
            nn.Linear(2 * dim, dim),
        )
        self.scales = nn.Parameter(torch.tensor([1.0, 10.0]))

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Return f (batch, dim) of φ_x (batch, dim) and φ_t (batch, dim)."""
        both = torch.cat([image, text], 1)
        kept = self.scales[0] * self.gate(both).sigmoid() * image
        composed: Tensor = kept + self.scales[1] * self.residual(both)
        return composed


class GatedResidualMap(nn.Module):
    """TIRG on the last map of the image, the text at each of its positions, and then their mean.

    G and R are Conv(ReLU(Conv(BN([x; φ_t])))), 3 × 3 convolutions.
    """

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.gate, self.residual = (_convolutions(channels + dim, channels) for _ in range(2))
        self.scales = nn.Parameter(torch.tensor([1.0, 10.0]))

    def forward(self, rows: Tensor, text: Tensor) -> Tensor:
        """Return (batch, channels) of the map's (batch, positions, channels) and φ_t (batch, dim).

        Raises `UserError` for a map that is not as high as it is wide.
        """
        side = math.isqrt(rows.shape[1])
        if side * side != rows.shape[1]:
            raise UserError(
                f"method.fusion: tirg_map reads square maps, and these have {rows.shape[1]} "
                "positions; use tirg"
            )
        image = rows.mT.unflatten(2, (side, side))
        both = torch.cat([image, text[:, :, None, None].expand(-1, -1, side, side)], 1)
        kept = self.scales[0] * self.gate(both).sigmoid() * image
        composed: Tensor = kept + self.scales[1] * self.residual(both)
        return composed.mean((2, 3))


class Concatenation(nn.Module):
    """f = W₂ ReLU(BN(W₁ ReLU(BN([φ_x; φ_t])))), with dropout before W₂."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            SyncBatchNorm1d(2 * dim),
            nn.ReLU(),
            nn.Linear(2 * dim, 2 * dim),
            SyncBatchNorm1d(2 * dim),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(2 * dim, dim),
        )

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Return f (batch, dim) of φ_x (batch, dim) and φ_t (batch, dim)."""
        composed: Tensor = self.layers(torch.cat([image, text], 1))
        return composed


class Sum(nn.Module):
    """f = φ_x + φ_t."""

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        """Return f (batch, dim) of φ_x (batch, dim) and φ_t (batch, dim)."""
        return image + text


class ImageAlone(nn.Module):
    """f = φ_x: the source alone, for comparison."""

    def forward(self, image: Tensor, text: Tensor) -> Tensor:  # noqa: ARG002
        """Return f (batch, dim) of φ_x (batch, dim) and φ_t (batch, dim)."""
        return image


class TextAlone(nn.Module):
    """f = φ_t: the modification alone, for comparison."""

    def forward(self, image: Tensor, text: Tensor) -> Tensor:  # noqa: ARG002
        """Return f (batch, dim) of φ_x (batch, dim) and φ_t (batch, dim)."""
        return text


def composition(kind: Composition, channels: int, dim: int) -> nn.Module:
    """Return the module that `method.fusion` names, of vectors φ or of a map of `channels`."""
    match kind:
        case "tirg_map":
            return GatedResidualMap(channels, dim)
        case "tirg":
            return GatedResidual(dim)
        case "concatenation":
            return Concatenation(dim)
        case "sum":
            return Sum()
        case "image":
            return ImageAlone()
        case "text":
            return TextAlone()


def _convolutions(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        SyncBatchNorm2d(before),
        nn.Conv2d(before, before, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(before, after, 3, padding=1),
    )
