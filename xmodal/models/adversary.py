"""Classifier that separates images from texts by their embeddings (MITE: Liu et al. 2019)."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn


class ModalityClassifier(nn.Module):
    """LeakyReLU layers with dropout, then two logits: (batch, features) → (batch, 2).

    Coordinates of an embedding of length 1 are about 1/√features, on which a classifier learns too
    slowly to follow encoders; with `scale` they are multiplied by √features first.
    """

    def __init__(
        self,
        features: int = 1024,
        hidden: Sequence[int] = (),
        dropout: float = 0.0,
        *,
        scale: bool = True,
    ) -> None:
        super().__init__()
        self.scale = features**0.5 if scale else None
        widths = [features, *hidden]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.LeakyReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], 2))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return logits of image and text, (batch, 2)."""
        if self.scale:
            embeddings = embeddings * self.scale
        logits: Tensor = self.layers(embeddings)
        return logits
