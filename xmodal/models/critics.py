"""Networks that judge embeddings for the objectives of Deep InfoMax (Hjelm et al. 2019)."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.models.batch_norm import synchronise_batch_norm


class CriticEncoder(nn.Module):
    """One side of the encode-and-dot critic: (batch, features) → (batch, units).

    A 1 × 1 convolution without bias, batch normalisation over all ranks, ReLU and a 1 × 1
    convolution, beside a linear shortcut that begins near the identity; then layer normalisation.
    On vectors, and on the positions of a map, a 1 × 1 convolution is a linear layer.
    """

    def __init__(self, features: int, units: int = 2048) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Linear(features, units, bias=False),
            nn.BatchNorm1d(units),
            nn.ReLU(),
            nn.Linear(units, units),
        )
        self.shortcut = nn.Linear(features, units, bias=False)
        nn.init.uniform_(self.shortcut.weight, -0.01, 0.01)
        with torch.no_grad():
            self.shortcut.weight.fill_diagonal_(1)
        self.norm = nn.LayerNorm(units)
        synchronise_batch_norm(self)

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, units) of vectors, (batch, positions, units) of maps.

        x is (batch, features), (batch, positions, features) or (batch, features, height, width).
        """
        if x.ndim == 4:
            x = x.flatten(2).transpose(1, 2)
        rows = x.flatten(0, -2)
        encoded: Tensor = self.norm(self.block(rows) + self.shortcut(rows))
        return encoded.view(*x.shape[:-1], encoded.shape[-1])


class EncodeAndDotCritic(nn.Module):
    """Encodes both sides: the critic's value T of a pair is the dot product of what it returns.

    Here over √units, so that T begins at about ±1: Deep InfoMax's own begins at about ±√units, of
    which no exponential can be taken.
    """

    def __init__(self, x_features: int, y_features: int, units: int = 2048) -> None:
        super().__init__()
        self.x, self.y = CriticEncoder(x_features, units), CriticEncoder(y_features, units)
        self.scale = units**-0.5

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return both sides encoded, each as `CriticEncoder` does."""
        return self.scale * self.x(x), self.y(y)


class ConcatenateCritic(nn.Module):
    """A network on both sides together: ReLU layers of `units`, and T."""

    def __init__(self, x_features: int, y_features: int, units: int = 512) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(x_features + y_features, units),
            nn.ReLU(),
            nn.Linear(units, units),
            nn.ReLU(),
            nn.Linear(units, 1),
        )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return T (batch,) of (batch, x_features) and (batch, y_features)."""
        values: Tensor = self.layers(torch.cat([x, y], 1))
        return values.squeeze(1)


class PriorDiscriminator(nn.Module):
    """Separates embeddings from samples of a prior: ReLU layers of 1000 and 200, and a logit.

    It gives its slopes by formula, and holds its weights itself, not in layers: autograd's slopes
    could not be differentiated under ZeRO 3, which has let go of the weights by then.
    """

    def __init__(self, features: int, hidden: tuple[int, int] = (1000, 200)) -> None:
        super().__init__()
        widths = pairwise([features, *hidden, 1])
        layers = [nn.Linear(before, after) for before, after in widths]
        self.weight0, self.weight1, self.weight2 = (layer.weight for layer in layers)
        self.bias0, self.bias1, self.bias2 = (layer.bias for layer in layers)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (batch,) of (batch, features), and their slopes by x (batch, features).

        A logit is above 0 for samples of the prior. Slopes have gradients by the weights alone.
        """
        first = F.linear(x, self.weight0, self.bias0)
        second = F.linear(first.relu(), self.weight1, self.bias1)
        logits = F.linear(second.relu(), self.weight2, self.bias2)
        slopes = ((second > 0) * self.weight2) @ self.weight1
        slopes = ((first > 0) * slopes) @ self.weight0
        return logits.squeeze(1), slopes
