"""Folders of pretrained models, as a hub has them, with random weights."""

from pathlib import Path

import torch

from tests.formats.references.processors import CLIP

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


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
