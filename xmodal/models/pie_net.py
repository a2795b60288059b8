"""Several embeddings an item (PIE-Net: Song and Soleymani 2019, arXiv 1906.04402)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.models.encoder import Encoder, cached_local


class PieNet(nn.Module):
    """K embeddings of an item: that of the whole, each with what its attention finds in the parts.

    A = softmax(W₂ tanh(W₁ X)) over the positions X, a column a sense (equation 2), and
    zₖ = LN(g + σ(W₃ (Aᵀ X)ₖ)) (equation 3), here of length 1; W₁ and W₂ have no biases.
    """

    def __init__(self, features: int, dim: int, senses: int) -> None:
        super().__init__()
        hidden = max(1, features // 2)
        first = nn.Linear(features, hidden, bias=False)
        second = nn.Linear(hidden, senses, bias=False)
        self.attention = nn.Sequential(first, nn.Tanh(), second)
        self.residual = nn.Linear(features, dim)
        self.norm = nn.LayerNorm(dim)
        for layer in (first, second, self.residual):
            nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(self.residual.bias)

    def forward(self, rows: Tensor, mask: Tensor, whole: Tensor) -> tuple[Tensor, Tensor]:
        """Return embeddings (batch, K, dim) and their residuals σ(W₃ …), of the same shape.

        `rows` (batch, positions, features) count where `mask` (batch, positions) is True; `whole`
        is g, (batch, dim).
        """
        scores = self.attention(rows).float().masked_fill(~mask[..., None], -torch.inf)
        found = scores.softmax(1).mT.to(rows) @ rows
        residuals = self.residual(found).float().sigmoid()
        embeddings = self.norm(whole.float()[:, None] + residuals)
        return F.normalize(embeddings.float(), dim=2), residuals


class PieTower(nn.Module):
    """An encoder, its head for the whole, and PIE-Net for the parts."""

    def __init__(self, backbone: Encoder, head: nn.Module, pie: PieNet) -> None:
        super().__init__()
        self.backbone, self.head, self.pie = backbone, head, pie

    def forward(self, *inputs: Tensor, features: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return embeddings and residuals of the backbone's inputs, as `PieNet` does.

        Cached features, as `cached_local` takes them, stand in for inputs.
        """
        local = self.backbone.local(*inputs) if features is None else cached_local(features)
        both: tuple[Tensor, Tensor] = self.pie(local.rows, local.mask, self.head(local.pooled))
        return both
