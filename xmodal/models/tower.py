"""An encoder and its way into the common space."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from xmodal.errors import UserError
from xmodal.models.encoder import Encoder, taken

Build = Callable[..., Any]  # a class, or a `partial` of one, to be called with what it lacks


class Tower(nn.Module):
    """An encoder and its head."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, *inputs: Tensor, features: Tensor | None = None) -> Tensor:
        """Return (batch, dim) of the backbone's inputs, or of its cached features if given."""
        if features is None:
            features = self.backbone(*taken(self.backbone, inputs))
        projected: Tensor = self.head(features)
        return projected


def projection(
    head: Build | None, encoder: Encoder, dim: int, side: str, *, local: bool = False
) -> nn.Module:
    """Return the head of an encoder: `head(features, dim)`, or the identity without one.

    Features are those of the whole, or, `local`, of a position or word.

    Raises `UserError` where there is none, and features are not as wide as the common space.
    """
    features = encoder.local_features if local else encoder.features
    if head is not None:
        module: nn.Module = head(features, dim)
        return module
    if features != dim:
        raise UserError(
            f"method.{side}_head is null, so method.embedding has to be {features}, the "
            f"width of the {side}'s features, not {dim}"
        )
    return nn.Identity()
