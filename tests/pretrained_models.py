"""Folders of pretrained models, as a hub has them, with random weights."""

from pathlib import Path
from typing import Any

import torch

from tests.formats.references.processors import CLIP
from xmodal.data.tokenizers.byte_pair import train_tokenizer
from xmodal.formats import open_clip
from xmodal.formats.dual_encoder import DualEncoder
from xmodal.methods.clip import Clip, ClipConfig

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}

CONTEXT, VOCABULARY = 16, 300
_FIELDS = ("image", "text", "image_head", "text_head", "embedding", "objective")


def write_clip(folder: Path) -> Path:
    """Write a very small CLIP of transformers, and return its folder."""
    from transformers import CLIPConfig, CLIPModel

    ends = {"bos_token_id": 598, "eos_token_id": 599, "pad_token_id": 599}
    text = {"vocab_size": 600, "max_position_embeddings": 20, "intermediate_size": 64}
    vision = {"image_size": 32, "patch_size": 16, "intermediate_size": 64}
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config=SIZES | text | ends, vision_config=SIZES | vision, projection_dim=24
    )
    folder.mkdir(parents=True)
    CLIPModel(config).save_pretrained(folder)
    CLIP.write(folder, 32)
    return folder


def small_model(**changes: Any) -> DualEncoder:
    """Return a model of ours with random weights, as a recipe describes it."""
    sizes = {"width": 16, "layers": 1, "heads": 2, "mlp": 40}
    config = ClipConfig.model_validate(
        {
            "image": {"kind": "vit", "size": 24, "patch": 8, **sizes},
            "text": {
                "kind": "clip_text",
                "context": CONTEXT,
                "tokenizer": {"kind": "byte_pair", "vocabulary": VOCABULARY},
                **sizes,
            },
            "embedding": 8,
        }
        | changes
    )
    torch.manual_seed(0)
    method: Clip = config.build(vocabulary=VOCABULARY)
    fields: dict[str, Any] = {name: getattr(config, name) for name in _FIELDS}
    return DualEncoder(**fields, weights=method.state_dict())


def write_pretrained(folder: Path, **changes: Any) -> Path:
    """Write a small model with its tokenizer into a folder, and return it."""
    tokenizer = train_tokenizer(["a red circle", "a dog"], CONTEXT, vocabulary=VOCABULARY)
    open_clip.write(small_model(**changes), tokenizer, folder)
    return folder
