"""SigLIP as big_vision saves it: arrays of JAX in an `.npz`, by which the architecture is known."""

import math
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xmodal.data.preprocessing import PreprocessingConfig
from xmodal.errors import UserError
from xmodal.formats.array_files import map_arrays
from xmodal.formats.dual_encoder import DualEncoder, objective_of
from xmodal.formats.hugging_face import siglip_tokenizer
from xmodal.formats.tensors import LazyTensors, Rule, nested, read_by
from xmodal.models.heads.mlp import MlpConfig
from xmodal.models.images.vit import VitConfig
from xmodal.models.texts.text_transformer import ClipTextConfig

# Who has the tokenizer of so many ids: the arrays hold none.
_TOKENIZERS = {
    32_000: "google/siglip-base-patch16-224",
    250_000: "google/siglip-base-patch16-256-multilingual",
    256_000: "google/siglip2-base-patch16-224",
}
_STACKED = "encoderblock/"  # all blocks of a tower in one array


def recognises(path: Path) -> bool:
    """Return True for an `.npz`, or a folder with one."""
    return path.suffix == ".npz" or (path.is_dir() and len(list(path.glob("*.npz"))) == 1)


def read(path: Path) -> DualEncoder:
    """Return the model of a file, or of the one in a folder, which may have a `tokenizer.json` too.

    Raises `UserError` where it is no SigLIP.
    """
    file = next(path.glob("*.npz")) if path.is_dir() else path
    arrays = {name.removeprefix("params/"): one for name, one in map_arrays(file).items()}
    if missing := {"t", "b", "img/pos_embedding", "txt/pos_embedding"} - arrays.keys():
        raise UserError(f"{file} is no SigLIP of big_vision: it has no {min(missing)}")
    weights = read_by(_RULES, LazyTensors(dict(_tensors(arrays))), str(file))
    image = _image(arrays, weights)
    return DualEncoder(
        image=image,
        text=_text(arrays, weights, file),
        image_head=None,
        text_head=MlpConfig(last="affine"),
        embedding=image.width,
        objective=objective_of(weights),
        weights=weights,
    )


def _tensors(arrays: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield arrays as tensors, those of stacked blocks one by one."""
    for name, array in arrays.items():
        if _STACKED not in name:
            yield name, partial(_tensor, array)
            continue
        for block in range(len(array)):
            yield name.replace(_STACKED, f"encoderblock_{block}/"), partial(_tensor, array[block])


def _tensor(array: Any) -> Tensor:
    return torch.from_numpy(array.copy())


def _image(arrays: Mapping[str, Any], weights: Mapping[str, Tensor]) -> VitConfig:
    patch, _, _, width = arrays["img/embedding/kernel"].shape
    return VitConfig(
        size=patch * math.isqrt(arrays["img/pos_embedding"].shape[1]),
        patch=patch,
        width=width,
        heads=arrays["img/MAPHead_0/MultiHeadDotProductAttention_0/query/kernel"].shape[1],
        **_sizes(weights, "image.backbone.model."),
        pooling="attention",
        class_token=False,
        pre_norm=False,
        patch_bias=True,
        # Google's own release for transformers resizes so.
        preprocessing=PreprocessingConfig(
            mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic", resize="squash"
        ),
    )


def _text(arrays: Mapping[str, Any], weights: Mapping[str, Tensor], file: Path) -> ClipTextConfig:
    ids, width = arrays["txt/Embed_0/embedding"].shape
    queries = next(one for name, one in arrays.items() if "txt" in name and "query/kernel" in name)
    if not any((file.parent / name).is_file() for name in ("spiece.model", "tokenizer.json")):
        known = f", that of {_TOKENIZERS[ids]}" if ids in _TOKENIZERS else ""
        raise UserError(
            f"{file} holds no tokenizer: put the spiece.model, or the tokenizer.json and "
            f"tokenizer_config.json, of its {ids:,} token ids beside it{known}"
        )
    return ClipTextConfig(
        context=arrays["txt/pos_embedding"].shape[1],
        width=width,
        heads=queries.shape[-2],
        **_sizes(weights, "text.backbone."),
        causal=False,
        pooling="last",
        padding="attended",
        token_ids=ids,
        tokenizer=siglip_tokenizer(file.parent),
    )


def _sizes(weights: Mapping[str, Tensor], tower: str) -> dict[str, Any]:
    """Return the keys that both towers have, of the names and shapes of one's blocks."""
    blocks = [name for name in weights if name.startswith(f"{tower}blocks.")]
    return {
        "layers": len({name.removeprefix(tower).split(".")[1] for name in blocks}),
        "mlp": len(weights[f"{tower}blocks.0.mlp.fc1.bias"]),
        "activation": "gelu_tanh",  # JAX's default
        "eps": 1e-6,
    }


def _columns(kernel: Tensor) -> Tensor:
    """Return the matrix (out, in) of a kernel (in, out), or (in, heads, out of a head)."""
    return kernel.flatten(1).T


def _joined(*kernels: Tensor) -> Tensor:
    return torch.cat([_columns(one) if one.ndim == 3 else one.flatten() for one in kernels])


def _dense(ours: str, theirs: str) -> list[Rule]:
    return [
        Rule(f"{ours}.weight", f"{theirs}/kernel", _columns),
        Rule(f"{ours}.bias", f"{theirs}/bias"),
    ]


def _norm(ours: str, theirs: str) -> list[Rule]:
    return [Rule(f"{ours}.weight", f"{theirs}/scale"), Rule(f"{ours}.bias", f"{theirs}/bias")]


def _attention(ours: str, of: str) -> list[Rule]:
    """Return rules for an attention's projections, `of` being those that are joined in one."""
    place = "MultiHeadDotProductAttention_0/"
    named = {"q": "query", "k": "key", "v": "value"}
    return [
        *(
            Rule(f"{ours}{of}.{part}", tuple(f"{place}{named[one]}/{array}" for one in of), _joined)
            for part, array in (("weight", "kernel"), ("bias", "bias"))
        ),
        # (heads, in of a head, out)
        Rule(f"{ours}proj.weight", f"{place}out/kernel", lambda one: one.flatten(0, 1).T),
        Rule(f"{ours}proj.bias", f"{place}out/bias"),
    ]


def _mlp(ours: str) -> list[Rule]:
    return [
        *_dense(f"{ours}mlp.fc1", "MlpBlock_0/Dense_0"),
        *_dense(f"{ours}mlp.fc2", "MlpBlock_0/Dense_1"),
    ]


_BLOCKS = nested(
    [
        *_norm("norm1", "LayerNorm_0"),
        *_attention("attn.", "qkv"),
        *_norm("norm2", "LayerNorm_1"),
        *_mlp(""),
    ],
    "blocks.{n}.",
    "encoderblock_{n}/",
)
_POOLING = nested(
    [
        Rule("latent", "probe"),
        *_attention("", "q"),
        *_attention("", "kv")[:2],
        *_norm("norm", "LayerNorm_0"),
        *_mlp(""),
    ],
    "attn_pool.",
    "MAPHead_0/",
)
_IMAGE = [
    Rule("patch_embed.proj.weight", "embedding/kernel", lambda one: one.permute(3, 2, 0, 1)),
    Rule("patch_embed.proj.bias", "embedding/bias"),
    Rule("pos_embed", "pos_embedding"),
    *nested(_BLOCKS, "", "Transformer/"),
    *_norm("norm", "Transformer/encoder_norm"),
    *_POOLING,
]
_TEXT = [
    Rule("backbone.words.weight", "Embed_0/embedding"),
    Rule("backbone.positions", "pos_embedding", lambda one: one[0]),
    *nested(_BLOCKS, "backbone.", "Encoder_0/"),
    *_norm("backbone.norm", "Encoder_0/encoder_norm"),
    *_dense("head.1", "head"),
]
_RULES = [
    *nested(_IMAGE, "image.backbone.model.", "img/"),
    *nested(_TEXT, "text.", "txt/"),
    Rule("loss.log_scale", "t", lambda one: one.reshape(1)),
    Rule("loss.bias", "b", lambda one: one.reshape(1)),
]
