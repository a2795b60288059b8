"""Image encoders: timm's models by name, from pixels to pooled features."""

import difflib
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn

from xmodal.errors import UserError
from xmodal.models.batch_norm import synchronise_batch_norm
from xmodal.models.config import FeaturesConfig, ImageConfig, TimmConfig
from xmodal.models.features import Features
from xmodal.models.packages import load_by_order, packaged_weights, read_state


class ImageEncoder(nn.Module):
    """A timm model without its classifier; uint8 pixels in, pooled features out."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: TimmConfig) -> None:
        super().__init__()
        self.model = _create(config)
        synchronise_batch_norm(self.model)
        # The width after pooling; `num_features` where a model has no layer in between.
        features: Any = getattr(self.model, "head_hidden_size", self.model.num_features)
        self.features = int(features)
        normalisation = resolve_model_data_config(self.model)
        for name in ("mean", "std"):
            values = 255 * torch.tensor(normalisation[name]).view(1, 3, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return features (batch, features) of images (batch, 3, height, width) uint8."""
        pixels = (images.float() - self.mean) / self.std
        # Convolutions take half the time on channels-last memory; other models do not mind it.
        features: Tensor = self.model(pixels.contiguous(memory_format=torch.channels_last))
        return features


def image_encoder(config: ImageConfig) -> ImageEncoder | Features:
    """Return the encoder that a recipe describes, with its first weights."""
    return Features(config) if isinstance(config, FeaturesConfig) else ImageEncoder(config)


def _create(config: TimmConfig) -> nn.Module:
    if not timm.is_model(config.name):
        near = difflib.get_close_matches(config.name.split(".")[0], timm.list_models(), n=3)
        hint = f"; near: {', '.join(near)}" if near else "; timm.list_models() has the names"
        raise UserError(f"method.image.name: timm has no model {config.name}{hint}")
    options = dict(config.options)
    try:
        pretrained_config = timm.get_pretrained_cfg(config.name)
        if pretrained_config is not None and pretrained_config.fixed_input_size:
            options.setdefault("img_size", config.size)
        model = timm.create_model(
            config.name, pretrained=config.weights == "hub", num_classes=0, **options
        )
    except (TypeError, AssertionError, RuntimeError) as error:
        raise UserError(f"method.image: timm refuses {config.name}: {error}") from None
    except OSError as error:
        raise UserError(
            f"method.image.weights: the hub did not give {config.name} "
            f"({str(error).splitlines()[0]}); give a local file instead"
        ) from None
    if config.weights not in {"random", "hub"}:
        _load(model, config)
    return model


def _load(model: nn.Module, config: TimmConfig) -> None:
    packaged = config.weights == "package"
    path = packaged_weights(config.name) if packaged else Path(config.weights)
    if not path.is_file():
        raise UserError(f"method.image.weights: there is no file {path}")
    own = model.state_dict()
    try:
        # A file may have the classifier as well, which our model has not.
        state = read_state(path)
        if packaged:
            load_by_order(model, dict(list(state.items())[: len(own)]))
        elif missing := [name for name in own if name not in state]:
            raise ValueError(f"it lacks {len(missing)} of {len(own)} tensors: {missing[0]} …")
        else:
            model.load_state_dict({name: state[name] for name in own})
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(
            f"method.image.weights: {path} does not fit {config.name}: {reason}"
        ) from None
