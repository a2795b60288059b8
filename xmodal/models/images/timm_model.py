"""Image encoders of the timm library by name, from pixels to features."""

import difflib
import pickle
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self

import timm
import torch
from pydantic import Field, PositiveInt
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn

from xmodal.errors import UserError
from xmodal.models.batch_norm import synchronise_batch_norm
from xmodal.models.config import WEIGHTS, ImageEncoderConfig
from xmodal.models.encoder import Encoder, Local
from xmodal.models.packages import load_by_order, packaged_weights, read_state
from xmodal.tensor_files import refusal


class TimmConfig(ImageEncoderConfig):
    """An image encoder of the timm library, by name."""

    kind: Literal["timm"] = "timm"
    name: str = Field(description="name of a timm model, such as vit_small_patch16_224")
    weights: str = Field("random", description=WEIGHTS)
    size: PositiveInt = Field(224, description="height and width of its input, pixels")
    options: dict[str, Any] = Field({}, description="further arguments of timm.create_model")
    batch_norm: Literal["auto", "train", "eval"] = Field(
        "auto", description="mode of batch normalisation in training; auto: eval if pretrained"
    )
    recipe_only: ClassVar[frozenset[str]] = frozenset({"batch_norm"})
    has_levels: ClassVar[bool] = True
    builds: ClassVar[str] = "TimmEncoder"

    @property
    def freezes_batch_norm(self) -> bool:
        """True if batch normalisation keeps its statistics while the encoder is trained."""
        pretrained = self.weights != "random"
        return self.batch_norm == "eval" or (self.batch_norm == "auto" and pretrained)

    def without_weights(self, folder: Path) -> Self:  # noqa: ARG002
        """Return the encoder with random weights."""
        return self.model_copy(update={"weights": "random"})


class TimmEncoder(Encoder):
    """A timm model without its classifier, on uint8 pixels.

    With a level, it gives that one of the model's intermediate maps too: of a ResNet 0 is the
    stem's, 1 to 4 are those of its stages. Raises `UserError` where there is no such.
    """

    mean: Tensor
    std: Tensor
    lower_features: int  # width of a position of the lower map

    def __init__(
        self,
        name: str,
        *,
        weights: str = "random",
        size: int = 224,
        options: Mapping[str, Any] = MappingProxyType({}),
        level: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        model: Any = _create(name, weights, size, options)
        synchronise_batch_norm(model)
        # In one call of the model, not by its methods: DeepSpeed prepares what is called.
        model.forward = partial(_maps_and_pooled, model, level)
        self.model = model
        if level is not None:
            self.lower_features = _channels(model, level, name)
        # The width after pooling; `num_features` where a model has no layer in between.
        self.features = int(getattr(model, "head_hidden_size", model.num_features))
        self.local_features = int(model.num_features)
        own = resolve_model_data_config(model)
        for statistic, given in (("mean", mean), ("std", std)):
            values = 255 * torch.tensor(given or own[statistic]).view(1, 3, 1, 1)
            self.register_buffer(statistic, values, persistent=False)

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


# Arguments of timm.create_model by which it reads files by itself.
_LOADING = {
    "checkpoint_path",
    "pretrained",
    "pretrained_cfg",
    "pretrained_cfg_overlay",
    "cache_dir",
}


def _create(name: str, weights: str, size: int, given: Mapping[str, Any]) -> nn.Module:
    if loading := sorted(_LOADING & set(given)):
        raise UserError(
            f"method.image.options.{loading[0]}: weights come from method.image.weights=FILE"
        )
    if ":" in name or "/" in name:
        raise UserError(
            f"method.image.name: {name} is a folder or a place of a hub; give the name of a "
            "model that timm knows, and its file of weights as method.image.weights=FILE"
        )
    if not timm.is_model(name):
        near = difflib.get_close_matches(name.split(".", maxsplit=1)[0], timm.list_models(), n=3)
        hint = f"; near: {', '.join(near)}" if near else "; timm.list_models() has the names"
        raise UserError(f"method.image.name: timm has no model {name}{hint}")
    options = dict(given)
    try:
        pretrained_config = timm.get_pretrained_cfg(name)
        if pretrained_config is not None and pretrained_config.fixed_input_size:
            options.setdefault("img_size", size)
        model = timm.create_model(name, pretrained=weights == "hub", num_classes=0, **options)
    except (TypeError, KeyError, AssertionError, RuntimeError) as error:
        raise UserError(f"method.image: timm refuses {name}: {error}") from None
    except pickle.UnpicklingError as error:
        raise UserError(f"method.image.weights: what the hub has {refusal(str(error))}") from None
    except OSError as error:
        raise UserError(
            f"method.image.weights: the hub did not give {name} "
            f"({str(error).splitlines()[0]}); give a local file instead, or weights: package"
        ) from None
    if weights not in {"random", "hub"}:
        _load(model, name, weights)
    return model


def _load(model: nn.Module, name: str, weights: str) -> None:
    packaged = weights == "package"
    path = packaged_weights(name) if packaged else Path(weights)
    if not path.is_file():
        raise UserError(
            f"method.image.weights: there is no file {path}; give a file, or random, hub or package"
        )
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
    except UserError as error:
        raise UserError(f"method.image.weights: {error}") from None
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(
            f"method.image.weights: {path} does not fit {name}: {reason}; give "
            "the weights of this model, or name theirs as method.image.name"
        ) from None
