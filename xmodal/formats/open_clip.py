"""Folders of open_clip: `open_clip_config.json` and the weights beside it.

The towers are open_clip's own, or those of timm and of transformers by name, MobileCLIP's among
them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from pydantic import ValidationError
from torch import Tensor

from xmodal.data.preprocessing import PreprocessingConfig
from xmodal.data.tokenizers.clip import ClipTokenizerConfig
from xmodal.data.tokenizers.config import Padded, TokenizerConfig
from xmodal.data.tokens import CaptionTokenizer
from xmodal.errors import UserError
from xmodal.formats.dual_encoder import DualEncoder, objective_of
from xmodal.formats.open_clip_names import IGNORED, rules_of
from xmodal.formats.open_clip_settings import settings_of
from xmodal.formats.tensors import read_by, write_by
from xmodal.formats.tokenizer_files import (
    special_tokens,
    write_json,
    write_merges,
    write_tokenizer,
)
from xmodal.formats.weight_files import open_weights, write_weights
from xmodal.models.config import Activation, HeadConfig, ImageEncoderConfig, TextEncoderConfig
from xmodal.models.heads.mlp import MlpConfig
from xmodal.models.images.timm_model import TimmConfig
from xmodal.models.images.vit import VitConfig
from xmodal.models.texts.pretrained import PretrainedTokenizerConfig, TransformersConfig
from xmodal.models.texts.text_transformer import ClipTextConfig
from xmodal.small_files import read_small

CONFIG = "open_clip_config.json"
WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pt",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
)
# Normalisation of OpenAI's models, which is open_clip's where it names none.
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
# Settings of parts that no encoder of ours has.
_ATTENTION = ("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn")
_UNKNOWN = {
    "vision_cfg": (*_ATTENTION, "scale_fc", "attentional_pool"),
    "text_cfg": (*_ATTENTION, "scale_fc", "embed_cls"),
}
IMAGE_POOLINGS = {"tok": "class", "avg": "mean"}
TIMM_POOLINGS = {"token": "class", "avg": "mean", "map": "attention", "": None}
TEXT_POOLINGS = {"argmax": "end_of_text", "eos": "end_of_text", "last": "last", "first": "class"}
HUGGING_FACE_POOLINGS = {
    "mean_pooler": "mean",
    "cls_pooler": "pooler",
    "cls_last_hidden_state_pooler": "class",
}


def recognises(path: Path) -> bool:
    """Return True for a folder with open_clip's configuration."""
    return (path / CONFIG).is_file()


def read(folder: Path) -> DualEncoder:
    """Return the model of a folder; its weights are read when they are asked for.

    Raises `UserError` for a folder that is damaged, or a model with a part that xmodal has not.
    """
    settings, preprocessing = _settings(folder)
    return model_of(settings, preprocessing, open_weights(folder, WEIGHTS), folder)


def write(model: DualEncoder, tokenizer: CaptionTokenizer, folder: Path) -> None:
    """Write a model and its tokenizer into a folder, as open_clip's `local-dir:` reads it.

    An image that is cut before it is resized is written as one that is resized before it is cut:
    they differ by less than a pixel. Raises `UserError`, which names the part, for a model that
    open_clip cannot build.
    """
    settings = settings_of(model, special_tokens(tokenizer).end)
    tensors = write_by(rules_of(settings), model.weights, "open_clip's format")
    # Without a scale of their own, scores are the cosines themselves.
    tensors.setdefault("logit_scale", torch.zeros(()))
    text = settings["text_cfg"]
    if "hf_model_name" not in text:
        text["vocab_size"] = len(model.weights["text.backbone.words.weight"])
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model.tokenizer, ClipTokenizerConfig):
        # Its library brings this tokenizer along; xmodal reads it beside the model.
        write_merges(tokenizer, folder)
    else:
        text["hf_tokenizer_name"] = text.get("hf_model_name", folder.name)
        cleaning = model.tokenizer.cleaning
        clean = cleaning if cleaning in ("lower", "canonicalize") else "whitespace"
        text["tokenizer_kwargs"] = {"clean": clean}
        write_tokenizer(tokenizer, model.tokenizer, folder)
    write_weights(tensors, folder / WEIGHTS[0])
    config = {"model_cfg": settings, "preprocess_cfg": _preprocess_cfg(model.image)}
    write_json(folder / CONFIG, config)


def _preprocess_cfg(image: ImageEncoderConfig) -> dict[str, Any]:
    ours = image.preprocessing or PreprocessingConfig()
    own = timm.get_pretrained_cfg(image.name) if isinstance(image, TimmConfig) else None
    return {
        "size": image.size,
        "mode": "RGB",
        "mean": ours.mean or (own.mean if own else MEAN),
        "std": ours.std or (own.std if own else STD),
        "interpolation": ours.interpolation,
        "resize_mode": "shortest" if ours.resize == "crop" else ours.resize,
        "fill_color": ours.fill,
    }


def model_of(
    settings: Mapping[str, Any],
    preprocessing: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    source: Path,
) -> DualEncoder:
    """Return the model that `model_cfg` and `preprocess_cfg` describe, with open_clip's tensors.

    `source` is the folder that may have a tokenizer, or a file in it.
    """
    try:
        _check(settings)
        vision, text = settings["vision_cfg"], settings["text_cfg"]
        weights = read_by(rules_of(settings), tensors, str(source), IGNORED)
        quick = bool(settings.get("quick_gelu"))
        return DualEncoder(
            image=_image(vision, _preprocessing(preprocessing), quick=quick),
            text=_text(text, source, quick=quick),
            image_head=_image_head(vision, settings["embed_dim"]),
            text_head=_text_head(text, weights),
            embedding=settings["embed_dim"],
            objective=objective_of(weights),
            weights=weights,
        )
    except (KeyError, ValidationError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{source}: its open_clip configuration is not one that xmodal reads: {reason}"
        ) from None


def _settings(folder: Path) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return a folder's `model_cfg` and `preprocess_cfg`."""
    try:
        found = json.loads(read_small(folder / CONFIG))
        return found["model_cfg"], found.get("preprocess_cfg") or {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{folder / CONFIG} is no configuration of open_clip: {error}") from None


def _check(settings: Mapping[str, Any]) -> None:
    """Raise `ValueError` where a model has a part that ours has not."""
    if "multimodal_cfg" in settings:
        raise ValueError("multimodal_cfg: it is a CoCa, whose decoder xmodal has not")
    for part, names in _UNKNOWN.items():
        given = [name for name in names if settings[part].get(name)]
        if given:
            raise ValueError(f"{part}.{given[0]} has no encoder of xmodal")
    others = (settings["text_cfg"].get("tokenizer_kwargs") or {}).keys() - {"clean"}
    if others:
        raise ValueError(f"text_cfg.tokenizer_kwargs.{min(others)} has no tokenizer of xmodal")
    if isinstance(settings["vision_cfg"].get("layers"), list):
        raise ValueError("vision_cfg.layers: xmodal has no ResNet of CLIP's")  # noqa: TRY004


def _preprocessing(given: Mapping[str, Any]) -> PreprocessingConfig:
    return PreprocessingConfig(
        mean=given.get("mean", MEAN),
        std=given.get("std", STD),
        interpolation=given.get("interpolation", "bicubic"),
        resize=given.get("resize_mode", "shortest"),
        resizer="pillow",
        fill=given.get("fill_color", 0),
    )


def _image(
    vision: Mapping[str, Any], preprocessing: PreprocessingConfig, *, quick: bool
) -> ImageEncoderConfig:
    size = vision.get("image_size", 224)
    size = size if isinstance(size, int) else _side(size)
    if vision.get("timm_model_name"):
        rates = {"drop_path_rate": "timm_drop_path", "patch_drop_rate": "patch_dropout"}
        return TimmConfig(
            name=vision["timm_model_name"],
            size=size,
            pooling=TIMM_POOLINGS[vision.get("timm_pool", "avg")],
            options={ours: vision[name] for ours, name in rates.items() if vision.get(name)},
            batch_norm="eval",
            preprocessing=preprocessing,
        )
    width = vision.get("width", 768)
    return VitConfig(
        size=size,
        patch=vision.get("patch_size", 16),
        heads=width // vision.get("head_width", 64),
        pooling=IMAGE_POOLINGS[vision.get("pool_type", "tok")],
        pre_norm=not vision.get("no_ln_pre"),
        norm_after_pooling=bool(vision.get("final_ln_after_pool")),
        patch_dropout=vision.get("patch_dropout", 0),
        preprocessing=preprocessing,
        **_sizes(vision, width, quick=quick),
    )


def _text(text: Mapping[str, Any], folder: Path, *, quick: bool) -> TextEncoderConfig:
    if "hf_model_name" in text:
        return TransformersConfig(
            name=text["hf_model_name"],
            weights="random",
            context=text.get("context_length", 77),
            pooling=HUGGING_FACE_POOLINGS[text.get("hf_pooler_type", "mean_pooler")],
            clean=_cleaning(text),
        )
    width, pooling = text.get("width", 512), text.get("pool_type", "argmax")
    causal = not text.get("no_causal_mask")
    attends = not causal or pooling == "last"
    return ClipTextConfig(
        context=text.get("context_length", 77),
        token_ids=text.get("vocab_size", 49408),
        heads=text.get("heads", 8),
        causal=causal,
        pooling=TEXT_POOLINGS[pooling],
        end=text.get("eos_id", 2) if pooling == "eos" else None,
        padding="attended" if attends else "masked",
        tokenizer=_tokenizer(text, folder, "context" if attends else "longest"),
        **_sizes(text, width, quick=quick),
    )


def _tokenizer(text: Mapping[str, Any], folder: Path, pads: Padded) -> TokenizerConfig:
    """Return the tokenizer of the folder, or by its name at the hub; CLIP's where it has none."""
    name = text.get("hf_tokenizer_name")
    if not name:
        place = folder if folder.is_dir() else folder.parent
        return ClipTokenizerConfig(folder=str(place), pads=pads)
    own = (folder / "tokenizer_config.json").is_file() or (folder / "tokenizer.json").is_file()
    return PretrainedTokenizerConfig(
        name=str(folder) if own else name, clean=_cleaning(text), pads=pads
    )


def _cleaning(text: Mapping[str, Any]) -> Any:
    return (text.get("tokenizer_kwargs") or {}).get("clean", "whitespace")


def _sizes(part: Mapping[str, Any], width: int, *, quick: bool) -> dict[str, Any]:
    """Return the keys that open_clip's own towers share."""
    return {
        "width": width,
        "layers": part.get("layers", 12),
        "mlp": int(width * part.get("mlp_ratio", 4.0)),
        "activation": _activation(part.get("act_kwargs") or {}, quick=quick),
        "eps": (part.get("norm_kwargs") or {}).get("eps", 1e-5),
        "layer_scale": part.get("ls_init_value"),
    }


def _activation(options: Mapping[str, Any], *, quick: bool) -> Activation:
    if quick:
        return "quick_gelu"
    return "gelu_tanh" if options.get("approximate") == "tanh" else "gelu"


def _side(size: list[int]) -> int:
    if len(set(size)) != 1:
        raise ValueError(f"vision_cfg.image_size is {size}, and xmodal reads squares")
    return size[0]


def _image_head(vision: Mapping[str, Any], embedding: int) -> HeadConfig | None:
    if not vision.get("timm_model_name"):
        return MlpConfig()
    last = "affine" if vision.get("timm_proj_bias") else "linear"
    match vision.get("timm_proj", "linear"):
        case "none":
            return None
        case "linear":
            return MlpConfig(last=last)
        case "mlp":
            return MlpConfig(hidden=[2 * embedding], last=last)
    return MlpConfig(last="affine")  # in the place of timm's classifier


def _text_head(text: Mapping[str, Any], weights: Mapping[str, Tensor]) -> HeadConfig | None:
    if "hf_model_name" not in text:
        last = "affine" if text.get("proj_bias") else "linear"
        return None if text.get("proj_type") == "none" else MlpConfig(last=last)
    kind = text.get("hf_proj_type", "mlp")
    if kind == "mlp":
        hidden = weights["text.head.0.weight"].shape[0]
        return MlpConfig(hidden=[hidden], hidden_bias=False)
    return MlpConfig() if kind == "linear" else None
