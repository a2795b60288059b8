"""Classifier that separates images from texts by their embeddings (MITE: Liu et al. 2019)."""

from itertools import pairwise

from torch import Tensor, nn


class ModalityClassifier(nn.Module):
    """LeakyReLU layers with dropout, then two logits: (batch, features) → (batch, 2)."""

    def __init__(
        self, features: int = 1024, hidden: tuple[int, ...] = (512, 256), dropout: float = 0.5
    ) -> None:
        super().__init__()
        widths = [features, *hidden]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.LeakyReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], 2))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return logits of image and text, (batch, 2)."""
        logits: Tensor = self.layers(embeddings)
        return logits
