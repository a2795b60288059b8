"""Image encoders of the timm library by name, from pixels to features."""

import difflib
import pickle
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self

import timm
from pydantic import Field, PositiveInt
from timm.data.config import resolve_model_data_config
from torch import nn

from xmodal.errors import UserError
from xmodal.hub import asking_hub, hub_failure
from xmodal.models.config import WEIGHTS, ImageEncoderConfig, ImagePooling
from xmodal.models.images.timm_features import POOLINGS, TimmFeatures
from xmodal.models.packages import load_by_order, packaged_weights, packages_for, read_state
from xmodal.tensor_files import refusal


class TimmConfig(ImageEncoderConfig):
    """An image encoder of the timm library, by name."""

    kind: Literal["timm"] = "timm"
    name: str = Field(description="name of a timm model, such as vit_small_patch16_224")
    weights: str = Field("random", description=WEIGHTS)
    size: PositiveInt = Field(224, description="height and width of its input, pixels")
    pooling: ImagePooling | None = Field(
        None, description="`class`, `mean` or `attention`; null: as the model is pooled by default"
    )
    options: dict[str, Any] = Field({}, description="further arguments of timm.create_model")
    batch_norm: Literal["auto", "train", "eval"] = Field(
        "auto", description="mode of batch normalisation in training; auto: eval if pretrained"
    )
    patch_dropout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of patches dropped in training, of vision transformers (FLIP, Li et al. "
        "2023)",
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


class TimmEncoder(TimmFeatures):
    """A timm model by name, normalising pixels as it was trained unless told otherwise."""

    def __init__(
        self,
        name: str,
        *,
        weights: str = "random",
        size: int = 224,
        pooling: ImagePooling | None = None,
        options: Mapping[str, Any] = MappingProxyType({}),
        patch_dropout: float = 0.0,
        level: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        dropping = {"patch_drop_rate": patch_dropout} if patch_dropout else {}
        model: Any = _create(name, weights, size, {**options, **dropping})
        if pooling is not None:
            _set_pooling(model, name, pooling)
        own = resolve_model_data_config(model)
        super().__init__(model, name, mean=mean or own["mean"], std=std or own["std"], level=level)


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
        with asking_hub() if weights == "hub" else nullcontext():
            model = timm.create_model(name, pretrained=weights == "hub", num_classes=0, **options)
    except (TypeError, KeyError, AssertionError, RuntimeError) as error:
        raise UserError(f"method.image: timm refuses {name}: {error}") from None
    except pickle.UnpicklingError as error:
        raise UserError(f"method.image.weights: what the hub has {refusal(str(error))}") from None
    except OSError as error:
        raise UserError(
            f"method.image.weights: the hub did not give {name} ({hub_failure(error)}); give a "
            f"local file instead, or {packages_for('image')}"
        ) from None
    if weights not in {"random", "hub"}:
        _load(model, name, weights)
    return model


def _set_pooling(model: Any, name: str, pooling: ImagePooling) -> None:
    try:
        model.reset_classifier(0, POOLINGS[pooling])
    except (AssertionError, TypeError) as error:
        raise UserError(
            f"method.image.pooling: {name} is not pooled by {pooling}: {error}; remove the key, or "
            "name another model"
        ) from None


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
