"""Names of tensors in models of the transformers library: CLIP, SigLIP, ChineseCLIP."""

from collections.abc import Sequence

import torch
from torch import Tensor

from xmodal.formats.tensors import Rule, nested

# Buffers of older versions, and a pooler that ChineseCLIP does not use.
IGNORED = r"(position_ids|token_type_ids)$|^text_model\.pooler\."


def _join(*parts: Tensor) -> Tensor:
    return torch.cat(parts)


def _thirds(joined: Tensor) -> Sequence[Tensor]:
    return joined.chunk(3)


def _query_and_rest(joined: Tensor) -> Sequence[Tensor]:
    third = len(joined) // 3
    return joined.split([third, 2 * third])


_BLOCKS = nested(
    [
        Rule("norm1.{rest}", "layer_norm1.{rest}"),
        Rule(
            "attn.qkv.{rest}",
            tuple(f"self_attn.{one}_proj.{{rest}}" for one in "qkv"),
            _join,
            _thirds,
        ),
        Rule("attn.proj.{rest}", "self_attn.out_proj.{rest}"),
        Rule("norm2.{rest}", "layer_norm2.{rest}"),
        Rule("mlp.{rest}", "mlp.{rest}"),
    ],
    "blocks.{n}.",
    "encoder.layers.{n}.",
)
# PyTorch's own attention of one query: its three projections are one tensor.
_POOLING = nested(
    [
        Rule("latent", "probe"),
        *(
            Rule((f"q.{part}", f"kv.{part}"), f"attention.in_proj_{part}", _query_and_rest, _join)
            for part in ("weight", "bias")
        ),
        Rule("proj.{rest}", "attention.out_proj.{rest}"),
        Rule("norm.{rest}", "layernorm.{rest}"),
        Rule("mlp.{rest}", "mlp.{rest}"),
    ],
    "attn_pool.",
    "head.",
)
_IMAGE = nested(
    [
        Rule(
            "cls_token",
            "embeddings.class_embedding",
            lambda one: one[None, None],
            lambda one: one[0, 0],
        ),
        Rule(
            "pos_embed",
            "embeddings.position_embedding.weight",
            lambda one: one[None],
            lambda one: one[0],
        ),
        Rule("patch_embed.proj.{rest}", "embeddings.patch_embedding.{rest}"),
        Rule("norm_pre.{rest}", "pre_layrnorm.{rest}"),  # so written there
        *_BLOCKS,
        Rule("norm.{rest}", "post_layernorm.{rest}"),
        *_POOLING,
    ],
    "image.backbone.model.",
    "vision_model.",
)
_TEXT = nested(
    [
        Rule("words.weight", "embeddings.token_embedding.weight"),
        Rule("positions", "embeddings.position_embedding.weight"),
        *_BLOCKS,
        Rule("norm.{rest}", "final_layer_norm.{rest}"),
    ],
    "text.backbone.",
    "text_model.",
)
_HEADS = [
    Rule("image.head.1.weight", "visual_projection.weight"),
    Rule("text.head.1.weight", "text_projection.weight"),
    # A number there, a vector of one here.
    Rule("loss.log_scale", "logit_scale", lambda one: one.reshape(1), lambda one: one.reshape(())),
]

CLIP = [*_IMAGE, *_TEXT, *_HEADS]
SIGLIP = [
    *_IMAGE,
    *_TEXT,
    Rule("text.head.1.{rest}", "text_model.head.{rest}"),
    Rule("loss.log_scale", "logit_scale", lambda one: one.reshape(1)),
    Rule("loss.bias", "logit_bias", lambda one: one.reshape(1)),
]
CHINESE_CLIP = [*_IMAGE, Rule("text.backbone.model.{rest}", "text_model.{rest}"), *_HEADS]
