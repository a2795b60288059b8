"""Normalised softmax: each embedding classified among the proxies of all classes."""

import torch
from torch import Tensor, nn

from xmodal.distributed.collectives import row_counts, share_of_mean
from xmodal.objectives.numerics import log1p_exp
from xmodal.objectives.pairwise import log_sum_exp
from xmodal.objectives.proxies import Proxies


class NormSoftmax(nn.Module):
    """Normalised softmax loss (Zhai and Wu 2019, arXiv 1811.12649, equation 4).

    L = −(1/B) Σᵢ log softmax_c(cos(xᵢ, p_c) / σ) at the class of xᵢ, over the B embeddings of the
    global batch; p are proxies of all classes, learned with the encoder.
    """

    def __init__(
        self, classes: int, width: int, *, temperature: float = 0.05, tile: int | None = None
    ) -> None:
        super().__init__()
        self.proxies = Proxies(classes, width)
        self.temperature, self.tile = temperature, tile
        self.monitors: dict[str, Tensor] = {}

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return this rank's share of the loss, (), of embeddings (rows, width), labels (rows,)."""
        x, proxies, own = self.proxies(embeddings, labels)
        ids = labels, torch.arange(len(proxies), device=labels.device)
        others, _ = log_sum_exp(x / self.temperature, proxies, ids, tile=self.tile)
        return share_of_mean(log1p_exp(others - own / self.temperature), row_counts(x))
