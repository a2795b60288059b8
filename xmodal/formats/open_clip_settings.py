"""Settings of open_clip (`model_cfg`) for a model of ours, as far as it can express one."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import timm
import torch

from xmodal.errors import UserError
from xmodal.formats.dual_encoder import DualEncoder
from xmodal.models.config import HeadConfig, ImageEncoderConfig, TextEncoderConfig
from xmodal.models.heads.mlp import MlpConfig
from xmodal.models.images.timm_features import POOLINGS
from xmodal.models.images.timm_model import TimmConfig
from xmodal.models.images.vit import Vit, VitConfig
from xmodal.models.texts.pretrained import TransformersConfig
from xmodal.models.texts.text_transformer import ClipTextConfig
from xmodal.objectives.sigmoid import SigmoidConfig

_HEADS = {  # of a projection without hidden layers: whether it has a bias
    "linear": False,
    "affine": True,
}


def settings_of(model: DualEncoder, end: int | None) -> dict[str, Any]:
    """Return the `model_cfg` of a model whose captions end with the token `end`.

    Raises `UserError`, which names the part, for one that open_clip cannot build.
    """
    image, text = model.image, model.text
    vision_cfg = _vision(image, model.image_head, model.embedding)
    text_cfg = _text(text, model.text_head, end)
    quick = {"quick_gelu": True} if _is_quick(image, text) else {}
    objective = model.objective
    bias = {"init_logit_bias": objective.bias} if isinstance(objective, SigmoidConfig) else {}
    # Of open_clip's first kind of model the names are those that other programs know.
    plain = isinstance(image, VitConfig) and "layers" in vision_cfg and set(text_cfg) <= _PLAIN
    return {
        "embed_dim": model.embedding,
        **quick,
        "vision_cfg": vision_cfg,
        "text_cfg": text_cfg,
        **({} if plain else {"custom_text": True}),
        **bias,
    }


_PLAIN = {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"}


def _cannot(part: str, reason: str) -> UserError:
    return UserError(f"open_clip's format cannot express method.{part}: {reason}")


def _is_quick(image: ImageEncoderConfig, text: TextEncoderConfig) -> bool:
    """Return whether activations are quick: open_clip has one for both of its own towers."""
    own = [one for one in (image, text) if isinstance(one, VitConfig | ClipTextConfig)]
    quick = [one.activation == "quick_gelu" for one in own]
    if any(quick) and not all(quick):
        raise _cannot("text.activation", "one tower has quick_gelu and the other has not")
    return any(quick)


def _vision(image: ImageEncoderConfig, head: HeadConfig | None, embedding: int) -> dict[str, Any]:
    if isinstance(image, TimmConfig):
        return _timm(image, head, embedding)
    if not isinstance(image, VitConfig):
        raise _cannot("image.kind", f"it has no encoder such as {image.kind}")
    if image.pooling == "attention" or not image.class_token or image.patch_bias:
        return _timm_twin(image, head, embedding)
    if _bias(head, "image_head") is not False:
        raise _cannot("image_head", "its own vision transformer has a linear one, without a bias")
    return {
        "image_size": image.size,
        "patch_size": image.patch,
        "head_width": image.width // image.heads,
        **_sizes(image),
        **_given(
            no_ln_pre=not image.pre_norm,
            pool_type="avg" if image.pooling == "mean" else None,
            final_ln_after_pool=image.norm_after_pooling,
            patch_dropout=image.patch_dropout,
        ),
    }


def _sizes(tower: VitConfig | ClipTextConfig) -> dict[str, Any]:
    """Return what both of open_clip's own towers have."""
    ratio = tower.mlp / tower.width
    exact = int(tower.width * ratio) == tower.mlp  # as open_clip computes it
    tanh = {"approximate": "tanh"} if tower.activation == "gelu_tanh" else None
    return {
        "width": tower.width,
        "layers": tower.layers,
        **_given(
            mlp_ratio=None if ratio == 4 else ratio if exact else (tower.mlp + 0.5) / tower.width,
            ls_init_value=tower.layer_scale,
            norm_kwargs={"eps": tower.eps} if tower.eps != 1e-5 else None,
            act_kwargs=tanh,
        ),
    }


def _given(**settings: Any) -> dict[str, Any]:
    """Return the settings that are not those of open_clip's anyway."""
    return {name: value for name, value in settings.items() if value}


def _timm(image: TimmConfig, head: HeadConfig | None, embedding: int) -> dict[str, Any]:
    known = {"drop_path_rate", "patch_drop_rate"}
    if unknown := sorted(set(image.options) - known):
        raise _cannot(f"image.options.{unknown[0]}", "of a model of timm it has the name alone")
    _check_size(image.name, image.size)
    if head is None and image.pooling is None:
        raise _cannot("image_head", "without one it asks for method.image.pooling")
    return {
        "timm_model_name": image.name,
        "timm_model_pretrained": False,
        "timm_pool": POOLINGS[image.pooling] if image.pooling else "",
        **_timm_head(image, head, embedding),
        "image_size": image.size,
        **_given(
            timm_drop_path=image.options.get("drop_path_rate"),
            patch_dropout=image.options.get("patch_drop_rate"),
        ),
    }


def _check_size(name: str, size: int) -> None:
    """Raise `UserError` for a size other than that which the library has for a name."""
    settings = timm.get_pretrained_cfg(name)
    if settings and settings.fixed_input_size and settings.input_size[-1] != size:
        raise _cannot("image.size", f"it builds {name} for {settings.input_size[-1]} pixels alone")


def _timm_head(image: TimmConfig, head: HeadConfig | None, embedding: int) -> dict[str, Any]:
    if head is None:
        return {"timm_proj": "none"}
    if _is_perceptron(head, 2 * embedding, hidden_bias=True):
        return {"timm_proj": "mlp", "timm_proj_bias": getattr(head, "last", "") == "affine"}
    if (
        _bias(head, "image_head")
        and image.pooling
        and POOLINGS[image.pooling] == _pooled_by_default(image.name)
    ):
        return {"timm_proj": None}  # in the place of the classifier, as in MobileCLIP
    return {"timm_proj": "linear", "timm_proj_bias": _bias(head, "image_head")}


def _pooled_by_default(name: str) -> Any:
    with torch.device("meta"):
        model: Any = timm.create_model(name)
    pooling = getattr(model, "global_pool", None)
    return pooling if isinstance(pooling, str) else model.head.global_pool.pool_type


def _timm_twin(image: VitConfig, head: HeadConfig | None, embedding: int) -> dict[str, Any]:
    """Return the settings of the model of timm that is the same network, as SigLIP's are."""
    wanted = _network(lambda: image.model_copy(update={"preprocessing": None}).build())
    for name in timm.list_models(f"vit_*patch{image.patch}_siglip_*{image.size}"):
        build = partial(timm.create_model, name, num_classes=0, img_size=image.size)
        if _network(build) == wanted:
            twin = TimmConfig(name=name, size=image.size, pooling=image.pooling)
            return _timm(twin, head, embedding)
    raise _cannot(
        "image",
        "it builds such by their names in timm, which has no vision transformer of these sizes "
        f"for {image.size} pixels",
    )


def _network(build: Any) -> tuple[Any, ...]:
    """Return what tells one network from another, without memory for its weights."""
    with torch.device("meta"):
        built = build()
    model = built.model if isinstance(built, Vit) else built
    block = model.blocks[0]
    shapes = {name: tuple(one.shape) for name, one in model.state_dict().items()}
    return shapes, str(block.mlp.act), block.attn.num_heads, block.norm1.eps, model.global_pool


def _text(text: TextEncoderConfig, head: HeadConfig | None, end: int | None) -> dict[str, Any]:
    if isinstance(text, TransformersConfig):
        return _hugging_face(text, head)
    if not isinstance(text, ClipTextConfig):
        raise _cannot("text.kind", f"it has no encoder such as {text.kind}")
    if text.padding == "masked" and not text.causal:
        raise _cannot("text.padding", "its texts that are not causal attend to padding")
    return {
        "context_length": text.context,
        "heads": text.heads,
        **_sizes(text),
        **_given(no_causal_mask=not text.causal, **_pooling(text, end)),
        **_given(
            proj_bias=head is not None and _bias(head, "text_head"),
            proj_type="none" if head is None else None,
        ),
    }


def _pooling(text: ClipTextConfig, end: int | None) -> Mapping[str, Any]:
    match text.pooling, text.padding:
        case "end_of_text", _:
            return {} if text.end is None else {"pool_type": "eos", "eos_id": text.end}
        case "class", _:
            return {"pool_type": "first"}
        case "last", "attended":
            return {"pool_type": "last"}
        case "last", "masked" if end is not None:  # before which there is no padding
            return {"pool_type": "eos", "eos_id": end}
    raise _cannot("text.pooling", f"its text transformer has no {text.pooling}")


def _hugging_face(text: TransformersConfig, head: HeadConfig | None) -> dict[str, Any]:
    poolings = {"mean": "mean_pooler", "class": "cls_last_hidden_state_pooler"}
    if text.pooling not in poolings:
        raise _cannot("text.pooling", f"a text tower of transformers has no {text.pooling}")
    if text.settings:
        raise _cannot("text.settings", "of a model of transformers it has the name alone")
    kind = None
    if isinstance(head, MlpConfig) and head.hidden:
        kind = "mlp"
        if not _is_perceptron(head, head.hidden[0], hidden_bias=False) or head.last != "linear":
            raise _cannot("text_head", "a hidden layer has to be one of gelu, and without biases")
    elif head is not None:
        kind = "linear"
        if _bias(head, "text_head"):
            raise _cannot("text_head", "a text tower of transformers has one without a bias")
    package = "sentence-transformers/" if text.weights == "package" and "/" not in text.name else ""
    return {
        "context_length": text.context,
        "hf_model_name": package + text.name,
        "hf_model_pretrained": False,
        "hf_pooler_type": poolings[text.pooling],
        "hf_proj_type": kind,
    }


def _is_perceptron(head: HeadConfig, hidden: int, *, hidden_bias: bool) -> bool:
    """Return whether a head is one hidden layer of gelu of this width."""
    return (
        isinstance(head, MlpConfig)
        and (head.hidden, head.hidden_bias, head.activation) == ([hidden], hidden_bias, "gelu")
        and not head.normalise
        and head.last != "sigmoid"
    )


def _bias(head: HeadConfig | None, part: str) -> bool | None:
    """Return whether a linear projection has a bias; None where there is no projection."""
    if head is None:
        return None
    if not isinstance(head, MlpConfig) or head.hidden or head.normalise or head.last not in _HEADS:
        raise _cannot(part, "it has linear projections alone there")
    return _HEADS[head.last]
