"""The learned similarity of UNCSM (Qi, Huang, Peng 2017), a network on a pair of embeddings."""

import math

import torch
from torch import Tensor, nn

from xmodal.models.exact import ExactLinear

DISSIMILAR, SIMILAR = 0, 1  # its classes
CELLS = 2**24  # numbers of a layer that are computed at a time


class MetricNetwork(nn.Module):
    """ReLU layers on [v; t], then two logits, after MatchNet's comparison (Han et al. 2015).

    With `interactions` on [v; t; |v − t|; v ⊙ t]. The first layer is the sum of one layer a part,
    so that those of v and of t are computed once an item, not once a pair.
    """

    def __init__(
        self, dim: int, hidden: tuple[int, int] = (1024, 256), *, interactions: bool = False
    ) -> None:
        super().__init__()
        first, second = hidden
        self.of_image = ExactLinear(dim, first)
        self.of_text, *of_pair = (
            ExactLinear(dim, first, bias=False) for _ in range(3 if interactions else 1)
        )
        self.of_pair = nn.ModuleList(of_pair)  # of |v − t| and v ⊙ t
        self.layers = nn.Sequential(nn.ReLU(), ExactLinear(first, second), nn.ReLU())
        self.last = ExactLinear(second, 2)
        self.width = max(dim, first) if interactions else first
        bound = 1 / math.sqrt((2 + len(of_pair)) * dim)  # as of one layer on all parts
        for layer in (self.of_image, self.of_text, *of_pair):
            nn.init.uniform_(layer.weight, -bound, bound)
        nn.init.uniform_(self.of_image.bias, -bound, bound)

    def forward(self, images: Tensor, texts: Tensor) -> Tensor:
        """Return logits (pairs, 2) of images and texts, (pairs, dim) each."""
        return self._logits(images, texts, self.of_image(images), self.of_text(texts))

    def all_pairs(self, images: Tensor, texts: Tensor) -> Tensor:
        """Return how sure it is, (a, b), that images (a, dim) and texts (b, dim) are similar.

        That is log p(similar) − log p(dissimilar), which ranks as p does and never saturates.
        """
        size = max(1, math.isqrt(CELLS // self.width))
        rows, columns = (
            list(zip(part.split(size), layer(part).split(size), strict=True))
            for part, layer in ((images, self.of_image), (texts, self.of_text))
        )
        return torch.cat([torch.cat([self._tile(*r, *c) for c in columns], 1) for r in rows])

    def _tile(
        self, images: Tensor, from_images: Tensor, texts: Tensor, from_texts: Tensor
    ) -> Tensor:
        logits = self._logits(images[:, None], texts, from_images[:, None], from_texts)
        return logits[..., SIMILAR] - logits[..., DISSIMILAR]

    def _logits(
        self, images: Tensor, texts: Tensor, from_images: Tensor, from_texts: Tensor
    ) -> Tensor:
        """Return (…, 2) of what broadcasts to (…, dim), and to (…, hidden) of the first layer."""
        first = from_images + from_texts
        if self.of_pair:
            difference, product = self.of_pair
            first = first + difference((images - texts).abs()) + product(images * texts)
        logits: Tensor = self.last(self.layers(first))
        return logits
