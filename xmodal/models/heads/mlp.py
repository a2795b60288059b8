"""Linear layer, or a network with hidden layers."""

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, Literal

import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from xmodal.models.config import HeadConfig


class MlpConfig(HeadConfig):
    """Linear layer, or a network with hidden layers."""

    kind: Literal["mlp"] = "mlp"
    normalise: bool | Literal["batch"] = Field(
        False,
        description="true: divide features by their length first (VSE++); `batch`: then centre "
        "each and divide it by its deviation, as they are in the batch",
    )
    hidden: list[PositiveInt] = Field([], description="widths of hidden layers; none: linear")
    hidden_bias: bool = Field(True, description="whether hidden layers have a bias")
    activation: Literal["gelu", "relu", "sigmoid"] = Field(
        "gelu", description="activation of hidden layers"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout before the last layer")
    last: Literal["linear", "affine", "sigmoid"] = Field(
        "linear",
        description="last layer: `linear`, without bias; `affine`, with bias; `sigmoid` after it",
    )
    builds: ClassVar[str] = "Mlp"


class Mlp(nn.Sequential):
    """Linear, or a network with the hidden widths given: (batch, features) → (batch, dim)."""

    def __init__(
        self,
        features: int,
        dim: int,
        *,
        normalise: bool | Literal["batch"] = False,
        hidden: Sequence[int] = (),
        hidden_bias: bool = True,
        activation: Literal["gelu", "relu", "sigmoid"] = "gelu",
        dropout: float = 0.0,
        last: Literal["linear", "affine", "sigmoid"] = "linear",
    ) -> None:
        widths = [features, *hidden]
        layers: list[nn.Module] = [_NORMALISATIONS[normalise](features)] if normalise else []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after, bias=hidden_bias), _ACTIVATIONS[activation]()]
        layers.append(nn.Dropout(dropout))
        layers.append(nn.Linear(widths[-1], dim, bias=last != "linear"))
        if last == "sigmoid":
            layers.append(nn.Sigmoid())
        super().__init__(*layers)


class Unit(nn.Module):
    """Features divided by their length."""

    def forward(self, features: Tensor) -> Tensor:
        """Return (batch, features) of length 1, or 0 where they are 0."""
        return F.normalize(features, dim=1)


def standardised(features: int) -> nn.Module:
    """Return the division by length, then batch normalisation over all ranks without weights.

    Features of length 1 have a mean square of 1 / features, which is added to variances: those that
    hardly vary are not blown up.
    """
    from xmodal.models.batch_norm import SyncBatchNorm1d  # imports timm

    return nn.Sequential(Unit(), SyncBatchNorm1d(features, eps=1 / features, affine=False))


_NORMALISATIONS = {True: lambda _: Unit(), "batch": standardised}
_ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU, "sigmoid": nn.Sigmoid}
