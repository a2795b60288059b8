"""Projections from an encoder's features into the common space."""

from itertools import pairwise

from torch import Tensor, nn

from xmodal.models.config import HeadConfig


class Head(nn.Sequential):
    """Linear, or a GELU network with the hidden widths given: (batch, features) → (batch, dim)."""

    def __init__(self, config: HeadConfig, features: int, dim: int) -> None:
        widths = [features, *config.hidden]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.GELU()]
        super().__init__(
            *layers, nn.Dropout(config.dropout), nn.Linear(widths[-1], dim, bias=False)
        )


class Tower(nn.Module):
    """An encoder and its head."""

    def __init__(self, backbone: nn.Module, head: Head) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, *inputs: Tensor, features: Tensor | None = None) -> Tensor:
        """Return (batch, dim) of the backbone's inputs, or of its cached features if given."""
        projected: Tensor = self.head(self.backbone(*inputs) if features is None else features)
        return projected
