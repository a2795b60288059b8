"""Modules of sentence-transformers, a folder each: an encoder, pooling, and layers of a head.

A model that transformers has no class for becomes a router: one way for images, one for texts.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from timm.data.config import resolve_data_config
from torch import Tensor

from xmodal.data.preprocessing import PreprocessingConfig
from xmodal.data.tokens import CaptionTokenizer
from xmodal.errors import UserError
from xmodal.formats import hugging_face
from xmodal.formats.dual_encoder import DualEncoder
from xmodal.formats.tokenizer_files import write_json, write_tokenizer
from xmodal.formats.weight_files import write_weights
from xmodal.models.config import HeadConfig
from xmodal.models.heads.mlp import MlpConfig
from xmodal.models.images.timm_model import TimmConfig
from xmodal.models.images.vit import VitConfig
from xmodal.models.texts.pretrained import TransformersConfig
from xmodal.models.texts.text_transformer import ClipTextConfig

ROUTER = "sentence_transformers.base.modules.router.Router"
TRANSFORMER = "sentence_transformers.base.modules.transformer.Transformer"
NORMALIZE = "sentence_transformers.base.modules.normalize.Normalize"
_DENSE = "sentence_transformers.base.modules.dense.Dense"
_POOLING = "sentence_transformers.sentence_transformer.modules.pooling.Pooling"
_POOLINGS = {"mean": "mean", "class": "cls", "last": "lasttoken"}
_LAYERS = "torch.nn.modules."
_ACTIVATIONS = {name.lower(): f"{_LAYERS}activation.{name}" for name in ("GELU", "ReLU", "Sigmoid")}
_CROPS = {"crop": "center", "shortest": "center", "squash": "squash", "longest": "border"}


def write_router(model: DualEncoder, tokenizer: CaptionTokenizer, folder: Path) -> None:
    """Write the ways of images and of texts: encoder, head and what lies between.

    Raises `UserError` for a part that no module of sentence-transformers is for.
    """
    image, text = model.image, model.text
    if not isinstance(image, TimmConfig | VitConfig):
        raise refused(f"method.image of kind {image.kind} beside method.text of kind {text.kind}")
    if not isinstance(text, TransformersConfig | ClipTextConfig):
        raise refused(f"method.text of kind {text.kind} beside method.image of kind {image.kind}")
    # Of timm's the library norms before or after it by its own rule.
    if isinstance(image, TimmConfig) and image.pooling is not None:
        raise refused(f"method.image.pooling: {image.pooling}")
    images, texts = (_part(model.weights, f"{side}.") for side in ("image", "text"))
    head = _part(texts, "head.")
    width = next((one.shape[1] for one in head.values() if one.ndim == 2), model.embedding)
    kinds = (
        _write_text(text, texts, tokenizer, width, folder)
        if isinstance(text, TransformersConfig)
        else _write_tower(model, "text", tokenizer, folder)
    )
    kinds |= _write_head(model.text_head, head, folder, "text")
    kinds |= (
        _write_image(image, images, folder)
        if isinstance(image, TimmConfig)
        else _write_tower(model, "image", tokenizer, folder)
    )
    kinds |= _write_head(model.image_head, _part(images, "head."), folder, "image")
    ways = {side: [name for name in kinds if name.startswith(side)] for side in ("text", "image")}
    parameters = {"default_route": "text", "allow_empty_key": True}
    settings = {"types": kinds, "structure": ways, "parameters": parameters}
    write_json(folder / "router_config.json", settings)


def refused(what: str) -> UserError:
    """Return the error about a part that the format cannot express."""
    return UserError(
        f"the format of sentence-transformers cannot express {what}; export to another format"
    )


def write_transformer(
    folder: Path,
    outputs: Mapping[str, str],
    methods: Mapping[str, str],
    name: str,
    *,
    pads: bool = False,
) -> None:
    """Write how a folder's model is called, by kind of input: method, output, and its name.

    With `pads`, texts are padded to the longest that the model reads.
    """
    inputs = {
        kind: {"method": methods[kind], "method_output_name": output}
        for kind, output in outputs.items()
    }
    settings = {
        "transformer_task": "feature-extraction",
        "modality_config": inputs,
        "module_output_name": name,
        **({"processing_kwargs": {"text": {"padding": "max_length"}}} if pads else {}),
    }
    write_json(folder / "sentence_bert_config.json", settings)


def _part(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): weights[name] for name in weights if name.startswith(prefix)}


def _write_text(
    text: TransformersConfig,
    weights: Mapping[str, Tensor],
    tokenizer: CaptionTokenizer,
    width: int,
    folder: Path,
) -> dict[str, str]:
    place = folder / "text_0_Transformer"
    text.keep_architecture(place)  # which makes the folder
    write_weights(_part(weights, "backbone.model."), place / "model.safetensors")
    write_tokenizer(tokenizer, text.tokenizer, place)
    called = {"text": "forward"}
    write_transformer(place, {"text": "last_hidden_state"}, called, "token_embeddings")
    pooling = folder / "text_1_Pooling"
    settings = {"embedding_dimension": width, "pooling_mode": _POOLINGS[text.pooling]}
    _write_module(pooling, settings | {"include_prompt": True})
    return {place.name: TRANSFORMER, pooling.name: _POOLING}


def _write_tower(
    model: DualEncoder, side: str, tokenizer: CaptionTokenizer, folder: Path
) -> dict[str, str]:
    """Write half of a CLIP."""
    place = folder / f"{side}_0_Transformer"
    hugging_face.write_tower(model, side, tokenizer, place)
    write_transformer(place, {side: "pooler_output"}, {side: "forward"}, "sentence_embedding")
    return {place.name: TRANSFORMER}


def _write_image(image: TimmConfig, weights: Mapping[str, Tensor], folder: Path) -> dict[str, str]:
    place = folder / "image_0_Transformer"
    place.mkdir(parents=True)
    tensors = _part(weights, "backbone.model.")
    write_weights(
        {f"timm_model.{name}": one for name, one in tensors.items()}, place / "model.safetensors"
    )
    write_json(place / "config.json", _timm_settings(image))
    write_transformer(place, {"image": "pooler_output"}, {"image": "forward"}, "sentence_embedding")
    return {place.name: TRANSFORMER}


def _timm_settings(image: TimmConfig) -> dict[str, Any]:
    pretrained = timm.get_pretrained_cfg(image.name)
    own = resolve_data_config(pretrained_cfg=pretrained.to_dict() if pretrained else {})
    given = image.preprocessing or PreprocessingConfig()
    fixed = {"img_size": image.size} if pretrained and pretrained.fixed_input_size else {}
    return {
        "model_type": "timm_wrapper",
        "architectures": ["TimmWrapperModel"],
        "architecture": image.name,
        "do_pooling": True,
        "num_classes": 0,
        "model_args": fixed | image.options,
        "pretrained_cfg": {
            "input_size": [3, image.size, image.size],
            "interpolation": given.interpolation,
            "crop_pct": 1.0,
            "crop_mode": _CROPS[given.resize],
            "mean": given.mean or own["mean"],
            "std": given.std or own["std"],
        },
    }


def _write_head(
    head: HeadConfig | None, weights: Mapping[str, Tensor], folder: Path, side: str
) -> dict[str, str]:
    """Write the layers of a head and return the kinds of their modules by folder."""
    if head is None:
        return {}
    if not isinstance(head, MlpConfig):
        raise refused(f"method.{side}_head of kind {head.kind}")
    if head.normalise == "batch":
        raise refused(f"method.{side}_head.normalise: batch")
    kinds: dict[str, str] = {}
    if head.normalise:
        kinds[f"{side}_2_Normalize"] = NORMALIZE
        _write_module(folder / f"{side}_2_Normalize", {})
    places = [name.removesuffix(".weight") for name in weights if name.endswith(".weight")]
    for number, place in enumerate(places):
        is_last = number == len(places) - 1
        activation = ("sigmoid" if head.last == "sigmoid" else None) if is_last else head.activation
        name = f"{side}_{number + 3}_Dense"
        kinds[name] = _DENSE
        _write_dense(_part(weights, f"{place}."), activation, folder / name)
    return kinds


def _write_dense(weights: Mapping[str, Tensor], activation: str | None, folder: Path) -> None:
    out, width = weights["weight"].shape
    identity = f"{_LAYERS}linear.Identity"
    settings = {
        "in_features": width,
        "out_features": out,
        "bias": "bias" in weights,
        "activation_function": _ACTIVATIONS[activation] if activation else identity,
    }
    _write_module(folder, settings)
    tensors = {f"linear.{name}": one for name, one in weights.items()}
    write_weights(tensors, folder / "model.safetensors")


def _write_module(folder: Path, settings: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True)
    write_json(folder / "config.json", settings)
