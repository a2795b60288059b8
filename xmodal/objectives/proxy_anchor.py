"""Proxy-Anchor loss: the proxy of every class against all embeddings of the batch."""

from typing import ClassVar, Literal

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from xmodal.distributed.collectives import gather
from xmodal.objectives.class_numbers import ClassNumbers
from xmodal.objectives.config import ProxiesConfig
from xmodal.objectives.numerics import log1p_exp
from xmodal.objectives.pairwise import log_sum_exp
from xmodal.objectives.pairwise.prefixes import Prefixes
from xmodal.objectives.proxies import Proxies


class ProxyAnchorConfig(ProxiesConfig):
    """The learned proxy of every class against all images and texts (Proxy-Anchor)."""

    kind: Literal["proxy_anchor"] = "proxy_anchor"
    scale: PositiveFloat = Field(32.0, description="inverse temperature")
    margin: float = Field(
        0.1, ge=0, description="cosine that positives exceed, and negatives stay below minus it"
    )
    builds: ClassVar[str] = "PairedProxyAnchor"


class ProxyAnchor(nn.Module):
    """Proxy-Anchor loss (Kim et al. 2020, arXiv 2003.13911, equation 4).

    L = (1/|P⁺|) Σ_{p∈P⁺} log(1 + Σ_{x∈X⁺_p} exp(−α (cos(x, p) − δ)))
      + (1/|P|) Σ_{p∈P} log(1 + Σ_{x∈X⁻_p} exp(α (cos(x, p) + δ))),
    where P are the proxies of all classes, P⁺ those of the classes in the global batch, X⁺_p the
    embeddings of the proxy's class in it, and X⁻_p all others.
    """

    def __init__(
        self,
        classes: int,
        width: int,
        *,
        scale: float = 32.0,
        margin: float = 0.1,
        tile: int | None = None,
    ) -> None:
        super().__init__()
        self.proxies = Proxies(classes, width)
        self.scale, self.margin, self.tile = scale, margin, tile
        self.monitors: dict[str, Tensor] = {}

    def forward(
        self, embeddings: Tensor, labels: Tensor, prefixes: Prefixes | None = None
    ) -> Tensor:
        """Return this rank's share of the loss, (), of embeddings (rows, width), labels (rows,).

        It is the loss of the global batch, the same on every rank.
        """
        x, proxies, own = self.proxies(embeddings, labels, prefixes)
        ids = labels, torch.arange(len(proxies), device=labels.device)
        scale = torch.tensor([self.scale], dtype=torch.float64)
        _, others = log_sum_exp(x, proxies, ids, scale=scale, tile=self.tile, form=prefixes)
        negative = log1p_exp(others + self.scale * self.margin).mean(0)
        logits, labels = self.scale * (self.margin - gather(own)), gather(labels)
        if prefixes is None:
            return negative + _of_present(logits, labels, len(proxies))
        positive = [_of_present(one, labels, len(proxies)) for one in logits.unbind(1)]
        return prefixes.weighted(negative + torch.stack(positive))


class PairedProxyAnchor(ProxyAnchor):
    """Proxy-Anchor loss of both items of every pair, which share their class's proxy."""

    def __init__(
        self,
        classes: int,
        width: int,
        *,
        scale: float = 32.0,
        margin: float = 0.1,
        tile: int | None = None,
    ) -> None:
        super().__init__(classes, width, scale=scale, margin=margin, tile=tile)
        self.numbers = ClassNumbers(classes)

    def forward(  # type: ignore[override]
        self, x: Tensor, y: Tensor, ids: Tensor, prefixes: Prefixes | None = None
    ) -> Tensor:
        """Return this rank's share of the loss, (), of (pairs, dim), (pairs, dim), and the ids of
        their classes, (pairs,).
        """
        return super().forward(torch.cat([x, y]), self.numbers(ids).repeat(2), prefixes)


def _of_present(logits: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return the mean of log(1 + Σ exp z) over the classes that are present, ()."""
    top = logits.new_full((classes,), -torch.inf)
    top = top.scatter_reduce(0, labels, logits.detach(), "amax")
    present = ~top.isneginf()
    shifted = (logits - top[labels]).exp()
    sums = torch.zeros_like(top).index_add(0, labels, shifted).masked_fill(~present, 1)
    costs = log1p_exp(top.masked_fill(~present, 0) + sums.log())
    return costs.masked_fill(~present, 0).sum() / present.sum().clamp(min=1)
