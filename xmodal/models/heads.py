"""Projections from an encoder's features into the common space."""

from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from xmodal.models.config import HeadConfig

_ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU, "sigmoid": nn.Sigmoid}


class Head(nn.Sequential):
    """Linear, or a network with the hidden widths given: (batch, features) → (batch, dim)."""

    def __init__(self, config: HeadConfig, features: int, dim: int) -> None:
        widths = [features, *config.hidden]
        layers: list[nn.Module] = [Unit()] if config.normalise else []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), _ACTIVATIONS[config.activation]()]
        layers.append(nn.Dropout(config.dropout))
        layers.append(nn.Linear(widths[-1], dim, bias=config.last != "linear"))
        if config.last == "sigmoid":
            layers.append(nn.Sigmoid())
        super().__init__(*layers)


class Unit(nn.Module):
    """Features divided by their length."""

    def forward(self, features: Tensor) -> Tensor:
        """Return (batch, features) of length 1, or 0 where they are 0."""
        return F.normalize(features, dim=1)


class Tower(nn.Module):
    """An encoder and its head."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, *inputs: Tensor, features: Tensor | None = None) -> Tensor:
        """Return (batch, dim) of the backbone's inputs, or of its cached features if given."""
        projected: Tensor = self.head(self.backbone(*inputs) if features is None else features)
        return projected
