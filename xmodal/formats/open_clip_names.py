"""Names of open_clip's tensors, and ours for them."""

from collections.abc import Mapping
from typing import Any

import timm
import torch
from torch import Tensor

from xmodal.formats.tensors import Rule, nested, transposed

IMAGE, IMAGE_HEAD = "image.backbone.model.", "image.head."
TEXT, TEXT_HEAD = "text.backbone.", "text.head."
# Buffers that older versions of the libraries kept beside the weights.
IGNORED = r"position_ids$|attn_mask$"

# Of timm's blocks, which are also those of our texts.
_BLOCKS = nested(
    [
        Rule("norm1.{rest}", "ln_1.{rest}"),
        Rule("norm2.{rest}", "ln_2.{rest}"),
        Rule("attn.qkv.weight", "attn.in_proj_weight"),
        Rule("attn.qkv.bias", "attn.in_proj_bias"),
        Rule("attn.proj.{rest}", "attn.out_proj.{rest}"),
        Rule("mlp.fc1.{rest}", "mlp.c_fc.{rest}"),
        Rule("mlp.fc2.{rest}", "mlp.c_proj.{rest}"),
        Rule("ls1.{rest}", "ls_1.{rest}"),
        Rule("ls2.{rest}", "ls_2.{rest}"),
    ],
    "blocks.{n}.",
    "transformer.resblocks.{n}.",
)
_ALL = [Rule("{rest}", "{rest}")]


def rules_of(settings: Mapping[str, Any]) -> list[Rule]:
    """Return the rules of a model by its `model_cfg`."""
    # Texts are inside or outside of a module of their own, by the version and the kind of model.
    prefixes = ["text."] if has_text_module(settings) else ["", "text."]
    texts = [rule for prefix in prefixes for rule in _text(settings["text_cfg"], prefix)]
    scalars = [
        Rule("loss.log_scale", "logit_scale", _one_element, _scalar),
        Rule("loss.bias", "logit_bias", _one_element, _scalar),
    ]
    return [*_image(settings["vision_cfg"]), *texts, *scalars]


def has_text_module(settings: Mapping[str, Any]) -> bool:
    """Return whether open_clip builds a model whose text tower is a module of its own."""
    return bool(settings.get("custom_text") or "hf_model_name" in settings["text_cfg"])


def _one_element(tensor: Tensor) -> Tensor:
    return tensor.reshape(1)


def _scalar(tensor: Tensor) -> Tensor:
    return tensor.reshape(())


def _image(vision: Mapping[str, Any]) -> list[Rule]:
    name = vision.get("timm_model_name")
    if name:
        return [
            *_timm_head(vision, name),
            *nested(_ALL, IMAGE, "visual.trunk."),
        ]
    last_norm = "fc_norm" if vision.get("final_ln_after_pool") else "norm"
    tower = [
        *_BLOCKS,
        Rule("cls_token", "class_embedding", _first_token, torch.flatten),
        Rule("pos_embed", "positional_embedding", _batched, _unbatched),
        Rule("patch_embed.proj.weight", "conv1.weight"),
        Rule("norm_pre.{rest}", "ln_pre.{rest}"),
        Rule(f"{last_norm}.{{rest}}", "ln_post.{rest}"),
    ]
    head = Rule(IMAGE_HEAD + "1.weight", "visual.proj", transposed, transposed)
    return [*nested(tower, IMAGE, "visual."), head]


def _first_token(vector: Tensor) -> Tensor:
    return vector[None, None]


def _batched(positions: Tensor) -> Tensor:
    return positions[None]


def _unbatched(positions: Tensor) -> Tensor:
    return positions[0]


def _timm_head(vision: Mapping[str, Any], name: str) -> list[Rule]:
    """Return the rules of a projection beside timm's network, or in the place of its classifier."""
    match vision.get("timm_proj", "linear"):
        case "linear":
            return [Rule(IMAGE_HEAD + "1.{rest}", "visual.head.proj.{rest}")]
        case "mlp":
            return [
                Rule(IMAGE_HEAD + "0.{rest}", "visual.head.mlp.fc1.{rest}"),
                Rule(IMAGE_HEAD + "3.{rest}", "visual.head.mlp.fc2.{rest}"),
            ]
        case "none":
            return []
    settings = timm.get_pretrained_cfg(name)
    classifier = settings.classifier if settings else "head"
    return [Rule(IMAGE_HEAD + "1.{rest}", f"visual.trunk.{classifier}.{{rest}}")]


def _text(text: Mapping[str, Any], prefix: str) -> list[Rule]:
    if "hf_model_name" in text:
        return [
            *nested(_ALL, TEXT + "model.", prefix + "transformer."),
            *_hugging_face_head(text, prefix),
        ]
    tower = [
        *_BLOCKS,
        Rule("words.weight", "token_embedding.weight"),
        Rule("positions", "positional_embedding"),
        Rule("norm.{rest}", "ln_final.{rest}"),
    ]
    head = [
        Rule(TEXT_HEAD + "1.weight", prefix + "text_projection", transposed, transposed),
        Rule(TEXT_HEAD + "1.{rest}", prefix + "text_projection.{rest}"),
    ]
    # With a bias it is a layer, whose weight lies the other way.
    return [*nested(tower, TEXT, prefix), *(head[1:] if text.get("proj_bias") else head[:1])]


def _hugging_face_head(text: Mapping[str, Any], prefix: str) -> list[Rule]:
    if text.get("hf_proj_type", "mlp") == "linear":
        return [Rule(TEXT_HEAD + "1.weight", prefix + "proj.weight")]
    return [
        Rule(TEXT_HEAD + "0.weight", prefix + "proj.0.weight"),
        Rule(TEXT_HEAD + "3.weight", prefix + "proj.2.weight"),
    ]
