"""Features of a network as timm writes them, from pixels."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.errors import UserError
from xmodal.models.batch_norm import synchronise_batch_norm
from xmodal.models.config import ImagePooling
from xmodal.models.depth import by_matcher
from xmodal.models.encoder import Encoder, Local

# By the library's names.
POOLINGS: dict[ImagePooling, Any] = {"class": "token", "mean": "avg", "attention": "map"}


class TimmFeatures(Encoder):
    """A network of timm's classes without its classifier, on uint8 pixels.

    `mean` and `std` (3,) normalise pixels from 0 to 1. With a level, it gives that one of the
    model's intermediate maps too: of a ResNet 0 is the stem's, 1 to 4 are those of its stages.
    Raises `UserError` where there is no such.
    """

    one_shape = True
    mean: Tensor
    std: Tensor
    lower_features: int  # width of a position of the lower map

    def __init__(
        self,
        model: Any,
        name: str,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        level: int | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        synchronise_batch_norm(model)
        # In one call of the model, not by its methods: DeepSpeed prepares what is called.
        model.forward = partial(_maps_and_pooled, model, level)
        self.model = model
        if level is not None:
            self.lower_features = _channels(model, level, name)
        # The width after pooling; `num_features` where a model has no layer in between.
        self.features = int(getattr(model, "head_hidden_size", model.num_features))
        self.local_features = int(model.num_features)
        for statistic, values in (("mean", mean), ("std", std)):
            pixels = 255 * torch.tensor(values).view(1, 3, 1, 1)
            self.register_buffer(statistic, pixels, persistent=False)

    @property
    def wrapped(self) -> nn.Module:
        """The model of timm."""
        model: nn.Module = self.model
        return model

    def names_by_depth(self) -> list[list[str]]:
        """Return the names of the parameters by depth, as timm groups its layers."""
        return by_matcher(self.model, "model.") or super().names_by_depth()

    def forward(self, images: Tensor, *, local: bool = False) -> Tensor | Local:
        """Return features (batch, features) of images (batch, 3, height, width) uint8.

        With `local`, also those of the positions of the last map, row by row, and of the lower.
        """
        pixels = (images.float() - self.mean) / self.std
        # Convolutions take half the time on channels-last memory; other models do not mind it.
        last, lower, pooled = self.model(pixels.contiguous(memory_format=torch.channels_last))
        if not local:
            features: Tensor = pooled
            return features
        rows = self._positions(last)
        mask = torch.ones_like(rows[..., 0], dtype=torch.bool)
        return Local(rows, mask, pooled, None if lower is None else by_position(lower))

    def _positions(self, last: Any) -> Tensor:
        """Return (batch, positions, channels) of a map, or of tokens without those of the whole."""
        if not isinstance(last, Tensor) or last.ndim not in (3, 4):
            raise UserError(
                f"method.image.name: {self.name} has no map of positions, which this method "
                "reads; name a convolutional network or a vision transformer"
            )
        if last.ndim == 3:
            return last[:, int(getattr(self.model, "num_prefix_tokens", 0)) :]
        if getattr(self.model, "output_fmt", "NCHW") == "NHWC":
            return last.flatten(1, 2)
        return by_position(last)


def by_position(maps: Tensor) -> Tensor:
    """Return (batch, positions, channels), row by row, of (batch, channels, height, width)."""
    return maps.flatten(2).transpose(1, 2)


def _maps_and_pooled(
    model: Any, level: int | None, pixels: Tensor
) -> tuple[Any, Tensor | None, Tensor]:
    """Return the features of a timm model before pooling, at a level, and at the end."""
    if level is None:
        last, lower = model.forward_features(pixels), None
    else:
        last, (lower,) = model.forward_intermediates(pixels, indices=[level], output_fmt="NCHW")
    return last, lower, model.forward_head(last)


def _channels(model: Any, level: int, name: str) -> int:
    """Return the width of the map at a level; raises `UserError` where there is none."""
    levels = len(model.feature_info)
    if level >= levels:
        raise UserError(
            f"method.level: {name} has levels 0 to {levels - 1}, not {level}; use one of them"
        )
    return int(model.feature_info[level]["num_chs"])
