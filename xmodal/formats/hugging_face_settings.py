"""A dual encoder of ours as the config.json of transformers' CLIP or SigLIP."""

import math
from collections.abc import Iterator
from typing import Any

from xmodal.errors import UserError
from xmodal.formats.dual_encoder import DualEncoder
from xmodal.formats.tokenizer_files import SpecialTokens
from xmodal.models.config import Activation, HeadConfig
from xmodal.models.heads.mlp import MlpConfig
from xmodal.models.images.vit import VitConfig
from xmodal.models.texts.text_transformer import ClipTextConfig

ACTIVATIONS: dict[str, Activation] = {
    "gelu": "gelu",
    "quick_gelu": "quick_gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}
_NAMES = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
# Keys that both of a kind's towers have as transformers builds them.
_IMAGES: dict[str, dict[str, Any]] = {
    "clip": {"pooling": "class", "class_token": True, "pre_norm": True, "patch_bias": False},
    "siglip": {"pooling": "attention", "class_token": False, "pre_norm": False, "patch_bias": True},
}
_TEXTS: dict[str, dict[str, Any]] = {
    "clip": {"causal": True},
    "siglip": {"causal": False, "pooling": "last", "padding": "attended"},
}


def settings_of(model: DualEncoder, special: SpecialTokens) -> dict[str, Any]:
    """Return the settings of a model of ours.

    Raises `UserError`, which names the first part that neither a CLIP nor a SigLIP has.
    """
    image, text = model.image, model.text
    if not isinstance(image, VitConfig) or not isinstance(text, ClipTextConfig):
        part = "text" if isinstance(image, VitConfig) else "image"
        kind = getattr(model, part).kind
        raise refused(
            f"method.{part} of kind {kind}; it has those of CLIP and SigLIP (vit, clip_text)"
        )
    kind = "siglip" if image.pooling == "attention" else "clip"
    if faults := [*_faults(model, image, text, kind)]:
        raise refused(f"{faults[0]}, where a {'SigLIP' if kind == 'siglip' else 'CLIP'} has none")
    settings = _siglip if kind == "siglip" else _clip
    return settings(model, image, text, special)


def refused(what: str) -> UserError:
    """Return the error about a part that the format cannot express."""
    return UserError(f"the format of transformers cannot express {what}; export to another format")


def tower_settings(tower: VitConfig | ClipTextConfig, special: SpecialTokens) -> dict[str, Any]:
    """Return the settings of CLIP's tower of images or of texts alone, without its projection.

    Raises `UserError`, which names the first part that such a tower has not.
    """
    side = "image" if isinstance(tower, VitConfig) else "text"
    if faults := [*_tower_faults(side, tower, "clip")]:
        raise refused(f"{faults[0]}, where a CLIP has none")
    if isinstance(tower, VitConfig):
        return {"architectures": ["CLIPVisionModel"], "dtype": "float32", **_vision(tower, "clip")}
    settings = _text(tower, "clip") | _ends(tower, special)
    return {"architectures": ["CLIPTextModel"], "dtype": "float32", **settings}


def _faults(model: DualEncoder, image: VitConfig, text: ClipTextConfig, kind: str) -> Iterator[str]:
    """Yield the keys by which a model is neither of transformers' kinds."""
    yield from _tower_faults("image", image, kind)
    yield from _tower_faults("text", text, kind)
    yield from _wrong_heads(model, kind)
    if kind == "clip" and "loss.bias" in model.weights:
        yield f"method.objective of kind {model.objective.kind}, whose bias"


def _tower_faults(side: str, tower: VitConfig | ClipTextConfig, kind: str) -> Iterator[str]:
    fixed = _IMAGES if isinstance(tower, VitConfig) else _TEXTS
    for key, value in fixed[kind].items():
        if getattr(tower, key) != value:
            yield f"method.{side}.{key}: {getattr(tower, key)}"
    if tower.layer_scale is not None:
        yield f"method.{side}.layer_scale: {tower.layer_scale}"
    if isinstance(tower, VitConfig):
        if tower.norm_after_pooling:
            yield "method.image.norm_after_pooling: true"
    elif kind == "clip" and tower.pooling not in ("end_of_text", "last"):
        yield f"method.text.pooling: {tower.pooling}"


def _wrong_heads(model: DualEncoder, kind: str) -> Iterator[str]:
    image, text = (None, "affine") if kind == "siglip" else ("linear", "linear")
    for side, head, last in (("image", model.image_head, image), ("text", model.text_head, text)):
        if _last(head) != last:
            yield f"method.{side}_head: {head.model_dump() if head else None}"


def _last(head: HeadConfig | None) -> str | None:
    """Return the last layer of a head that has no other; "" for a head with more."""
    if head is None:
        return None
    is_single = isinstance(head, MlpConfig) and not head.hidden and not head.normalise
    return head.last if isinstance(head, MlpConfig) and is_single else ""


def _clip(
    model: DualEncoder, image: VitConfig, text: ClipTextConfig, special: SpecialTokens
) -> dict[str, Any]:
    shared = {"projection_dim": model.embedding}
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "dtype": "float32",
        "logit_scale_init_value": math.log(getattr(model.objective, "scale", 1 / 0.07)),
        **shared,
        "text_config": _text(text, "clip") | _ends(text, special) | shared,
        "vision_config": _vision(image, "clip") | shared,
    }


def _ends(text: ClipTextConfig, special: SpecialTokens) -> dict[str, Any]:
    end = special.end if text.end is None else text.end
    if end is None:
        raise refused("a tokenizer without an end token, at which CLIP's texts are pooled")
    return {"bos_token_id": special.start, "pad_token_id": special.pad, "eos_token_id": end}


def _siglip(
    model: DualEncoder, image: VitConfig, text: ClipTextConfig, special: SpecialTokens
) -> dict[str, Any]:
    ends = {"bos_token_id": special.start, "pad_token_id": special.pad, "eos_token_id": special.end}
    return {
        "architectures": ["SiglipModel"],
        "model_type": "siglip",
        "dtype": "float32",
        "text_config": _text(text, "siglip") | ends | {"projection_size": model.embedding},
        "vision_config": _vision(image, "siglip") | {"vision_use_head": True},
    }


def _text(text: ClipTextConfig, kind: str) -> dict[str, Any]:
    return _sizes(text) | {
        "model_type": f"{kind}_text_model",
        "max_position_embeddings": text.context,
    }


def _vision(image: VitConfig, kind: str) -> dict[str, Any]:
    return _sizes(image) | {
        "model_type": f"{kind}_vision_model",
        "image_size": image.size,
        "patch_size": image.patch,
        "num_channels": 3,
    }


def _sizes(tower: VitConfig | ClipTextConfig) -> dict[str, Any]:
    return {
        "hidden_size": tower.width,
        "num_hidden_layers": tower.layers,
        "num_attention_heads": tower.heads,
        "intermediate_size": tower.mlp,
        "hidden_act": _NAMES[tower.activation],
        "layer_norm_eps": tower.eps,
    }
