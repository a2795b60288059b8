"""Folders of the transformers library: CLIP, SigLIP, SigLIP 2 of fixed resolution, ChineseCLIP."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from xmodal.data.tokenizers.config import TokenizerConfig
from xmodal.data.tokenizers.siglip import SiglipTokenizerConfig
from xmodal.data.tokens import CaptionTokenizer
from xmodal.errors import UserError
from xmodal.extras import require
from xmodal.formats import hugging_face_names as names
from xmodal.formats.dual_encoder import DualEncoder, objective_of
from xmodal.formats.hugging_face_settings import ACTIVATIONS, settings_of, tower_settings
from xmodal.formats.processor_files import read_preprocessing, write_preprocessing
from xmodal.formats.tensors import Rule, read_by, write_by
from xmodal.formats.tokenizer_files import special_tokens, write_json, write_tokenizer
from xmodal.formats.weight_files import open_weights, write_weights
from xmodal.models.heads.mlp import MlpConfig
from xmodal.models.images.vit import VitConfig
from xmodal.models.text_limits import check_files, check_numbers
from xmodal.models.texts.pretrained import PretrainedTokenizerConfig, TransformersConfig
from xmodal.models.texts.text_transformer import ClipTextConfig
from xmodal.small_files import read_small

_RULES: dict[str, list[Rule]] = {
    "clip": names.CLIP,
    "siglip": names.SIGLIP,
    "chinese_clip": names.CHINESE_CLIP,
}
_PROCESSORS = {"clip": "CLIP", "siglip": "Siglip"}
_WORDS = "text_model.embeddings.token_embedding.weight"
# Those of its text tower by which ChineseCLIP's differs from another BERT.
BERT_KEYS = {
    "attention_probs_dropout_prob",
    "hidden_act",
    "hidden_dropout_prob",
    "hidden_size",
    "intermediate_size",
    "layer_norm_eps",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "pad_token_id",
    "type_vocab_size",
    "vocab_size",
}


def recognises(path: Path) -> bool:
    """Return True for a folder with the settings of a model of two towers."""
    return path.is_dir() and {"text_config", "vision_config"} <= _settings_of(path).keys()


def read(folder: Path) -> DualEncoder:
    """Return the model of a folder; its weights are read when they are asked for.

    Raises `UserError` for a model of another kind, or of a part that xmodal does not have.
    """
    settings = _settings(folder)
    kind = settings.model_type
    weights = read_by(_RULES[kind], open_weights(folder), str(folder), names.IGNORED)
    image = _image(settings.vision_config, folder, is_siglip=kind == "siglip")
    return DualEncoder(
        image=image,
        text=_TEXTS[kind](settings.text_config, folder),
        image_head=None if kind == "siglip" else MlpConfig(),
        text_head=MlpConfig(last="affine" if kind == "siglip" else "linear"),
        embedding=image.width if kind == "siglip" else settings.projection_dim,
        objective=objective_of(weights),
        weights=weights,
    )


def write(model: DualEncoder, tokenizer: CaptionTokenizer, folder: Path) -> None:
    """Write a model into a folder, which transformers reads as a CLIP or SigLIP.

    Raises `UserError`, which names the part, for a model that is neither.
    """
    settings = settings_of(model, special_tokens(tokenizer))
    kind = settings["model_type"]
    tensors = write_by(_RULES[kind], model.weights, "the format of transformers")
    if kind == "siglip":
        # One that was trained without a bias has the same scores with a bias of 0.
        tensors.setdefault("logit_bias", torch.zeros(1))
    settings["text_config"]["vocab_size"] = len(tensors[_WORDS])
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(tokenizer, model.tokenizer, folder)
    write_preprocessing(model.image, _PROCESSORS[kind], folder)
    write_json(folder / "config.json", settings)
    write_weights(tensors, folder / "model.safetensors")


def write_tower(model: DualEncoder, side: str, tokenizer: CaptionTokenizer, folder: Path) -> None:
    """Write the tower of a side without its projection, as the half of a CLIP of transformers.

    Raises `UserError`, which names the part, for a tower that is none.
    """
    settings = tower_settings(getattr(model, side), special_tokens(tokenizer))
    own = {name: model.weights[name] for name in model.weights if f"{side}.backbone." in name}
    named = write_by(names.CLIP, own, "the format of transformers")
    tensors = {name.partition(".")[2]: one for name, one in named.items()}
    folder.mkdir(parents=True)
    if side == "text":
        settings["vocab_size"] = len(tensors[_WORDS.partition(".")[2]])
        write_tokenizer(tokenizer, model.tokenizer, folder)
    else:
        write_preprocessing(model.image, "CLIP", folder, alone=True)
    write_json(folder / "config.json", settings)
    write_weights(tensors, folder / "model.safetensors")


def _settings_of(folder: Path) -> Mapping[str, Any]:
    """Return a folder's config.json; empty where there is none."""
    try:
        settings = json.loads(read_small(folder / "config.json"))
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, dict) else {}


def _settings(folder: Path) -> Any:
    """Return the settings of a model as transformers reads them, with its defaults."""
    kind = _settings_of(folder).get("model_type")
    if kind == "siglip2":
        raise UserError(
            f"{folder} is a SigLIP 2 of variable resolution (NaFlex), whose images xmodal does not "
            "cut into patches; use one of fixed resolution, such as google/siglip2-base-patch16-224"
        )
    if kind not in _RULES:
        raise UserError(
            f"{folder} is a model of type {kind}; xmodal reads those of {', '.join(_RULES)}"
        )
    require("pretrained")
    from transformers import AutoConfig, PretrainedConfig

    try:
        check_files(folder)
        check_numbers(PretrainedConfig.get_config_dict(folder)[0])
        with _without_warnings():
            return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except UserError:
        raise
    except Exception as error:  # the settings lead the library to whatever error
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{folder}: its config.json does not load: {reason}") from None


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence the library on its own defaults: those of SigLIP's tokens are not among its ids."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _image(vision: Any, folder: Path, *, is_siglip: bool) -> VitConfig:
    if vision.num_channels != 3 or not getattr(vision, "vision_use_head", True):
        raise UserError(
            f"{folder}: its images have {vision.num_channels} channels, or are not pooled; xmodal "
            "reads models of RGB with a pooled embedding"
        )
    size = _side(vision.image_size, "image_size", folder)
    return VitConfig(
        size=size,
        patch=_side(vision.patch_size, "patch_size", folder),
        **_sizes(vision, folder),
        pooling="attention" if is_siglip else "class",
        class_token=not is_siglip,
        pre_norm=not is_siglip,
        patch_bias=is_siglip,
        preprocessing=read_preprocessing(folder, size),
    )


def _clip_text(text: Any, folder: Path) -> ClipTextConfig:
    end = text.eos_token_id
    return ClipTextConfig(
        **_sizes(text, folder),
        context=text.max_position_embeddings,
        pooling="end_of_text",
        # Before transformers 4.31 all had a 2 there, and the largest id ended a text.
        end=None if end == 2 else end,
        token_ids=text.vocab_size,
        tokenizer=PretrainedTokenizerConfig(name=str(folder)),
    )


def _siglip_text(text: Any, folder: Path) -> ClipTextConfig:
    return ClipTextConfig(
        **_sizes(text, folder),
        context=text.max_position_embeddings,
        causal=False,
        pooling="last",
        padding="attended",
        token_ids=text.vocab_size,
        tokenizer=siglip_tokenizer(folder),
    )


def _bert_text(text: Any, folder: Path) -> TransformersConfig:
    shared = BERT_KEYS & text.to_dict().keys()
    return TransformersConfig(
        name=str(folder),
        weights="random",
        settings={"model_type": "bert"} | {key: getattr(text, key) for key in sorted(shared)},
        context=text.max_position_embeddings,
        pooling="class",
    )


_TEXTS = {"clip": _clip_text, "siglip": _siglip_text, "chinese_clip": _bert_text}


def siglip_tokenizer(folder: Path) -> TokenizerConfig:
    """Return SigLIP's tokenizer, or the one of SigLIP 2, which is in `tokenizer.json`."""
    if (folder / "spiece.model").is_file():
        return SiglipTokenizerConfig(folder=str(folder))
    return PretrainedTokenizerConfig(name=str(folder), pads="context")


def _sizes(part: Any, folder: Path) -> dict[str, Any]:
    """Return the keys that both towers have, of the settings of one."""
    if part.hidden_act not in ACTIVATIONS:
        raise UserError(
            f"{folder}: its activation is {part.hidden_act}; xmodal has {', '.join(ACTIVATIONS)}"
        )
    return {
        "width": part.hidden_size,
        "layers": part.num_hidden_layers,
        "heads": part.num_attention_heads,
        "mlp": part.intermediate_size,
        "activation": ACTIVATIONS[part.hidden_act],
        "eps": part.layer_norm_eps,
    }


def _side(size: int | Sequence[int], name: str, folder: Path) -> int:
    """Return the side of a square."""
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise UserError(f"{folder}: its {name} is {size}; xmodal reads squares alone")
    return sides.pop()
