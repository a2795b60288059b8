"""Normalised softmax: each embedding classified among the proxies of all classes."""

from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from xmodal.distributed.collectives import row_counts, share_of_mean
from xmodal.objectives.class_numbers import ClassNumbers
from xmodal.objectives.config import ProxiesConfig
from xmodal.objectives.numerics import log1p_exp
from xmodal.objectives.pairwise import log_sum_exp
from xmodal.objectives.pairwise.prefixes import Prefixes
from xmodal.objectives.proxies import Proxies


class NormSoftmaxConfig(ProxiesConfig):
    """Every image and text classified among learned proxies of all classes (NormSoftmax)."""

    kind: Literal["norm_softmax"] = "norm_softmax"
    temperature: PositiveFloat = Field(0.05, description="temperature of the softmax")
    builds: ClassVar[str] = "PairedNormSoftmax"


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

    def forward(
        self, embeddings: Tensor, labels: Tensor, prefixes: Prefixes | None = None
    ) -> Tensor:
        """Return this rank's share of the loss, (), of embeddings (rows, width), labels (rows,)."""
        x, proxies, own = self.proxies(embeddings, labels, prefixes)
        ids = labels, torch.arange(len(proxies), device=labels.device)
        scale = torch.tensor([1 / self.temperature], dtype=torch.float64)
        others, _ = log_sum_exp(x, proxies, ids, scale=scale, tile=self.tile, form=prefixes)
        costs = log1p_exp(others - own / self.temperature)
        return share_of_mean(prefixes.weighted(costs) if prefixes else costs, row_counts(x))


class PairedNormSoftmax(NormSoftmax):
    """Normalised softmax loss of both items of every pair, which share their class's proxy.

    The paper has one medium. Here images and texts of a class meet at its proxy.
    """

    def __init__(
        self, classes: int, width: int, *, temperature: float = 0.05, tile: int | None = None
    ) -> None:
        super().__init__(classes, width, temperature=temperature, tile=tile)
        self.numbers = ClassNumbers(classes)

    def forward(  # type: ignore[override]
        self, x: Tensor, y: Tensor, ids: Tensor, prefixes: Prefixes | None = None
    ) -> Tensor:
        """Return this rank's share of the loss, (), of (pairs, dim), (pairs, dim), and the ids of
        their classes, (pairs,).
        """
        return super().forward(torch.cat([x, y]), self.numbers(ids).repeat(2), prefixes)
