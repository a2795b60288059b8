"""Write small models of the transformers library: FOLDER/NAME, and FOLDER/NAME.safetensors.

The tensors are inputs (images uint8, tokens) and the model's embeddings of them.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
import transformers
from processors import CHINESE_CLIP, CLIP, SIGLIP, SIGLIP2, Processor
from safetensors.torch import save_file

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = SIZES | {"intermediate_size": 80}
VISION = SIZES | {"intermediate_size": 96, "hidden_size": 48, "image_size": 24, "patch_size": 8}
CLIP_TEXT = TEXT | {"max_position_embeddings": 20, "vocab_size": 600}
ENDS = {"bos_token_id": 598, "eos_token_id": 599, "pad_token_id": 599}
SIGLIP_TEXT = TEXT | {"max_position_embeddings": 16, "vocab_size": 400, "projection_size": 48}
BERT_TEXT = TEXT | {"max_position_embeddings": 40, "vocab_size": 60}

# By name: kind of the model, settings of its text and of its images, and its processor.
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, Any], Processor]] = {
    "clip": ("CLIP", CLIP_TEXT | ENDS, VISION, CLIP),
    "clip_gelu": (
        "CLIP",
        CLIP_TEXT | ENDS | {"hidden_act": "gelu"},
        VISION | {"hidden_act": "gelu", "layer_norm_eps": 1e-6},
        CLIP,
    ),
    # Of before transformers 4.31: the largest id ends a text.
    "clip_old": ("CLIP", CLIP_TEXT | ENDS | {"eos_token_id": 2}, VISION, CLIP),
    "siglip": ("Siglip", SIGLIP_TEXT, VISION, SIGLIP),
    "siglip_gelu": (
        "Siglip",
        SIGLIP_TEXT | {"hidden_act": "gelu"},
        VISION | {"hidden_act": "gelu"},
        SIGLIP,
    ),
    "siglip2": ("Siglip", SIGLIP_TEXT | {"vocab_size": 500}, VISION, SIGLIP2),
    "chinese_clip": ("ChineseCLIP", BERT_TEXT, VISION, CHINESE_CLIP),
}


def build(kind: str, text: dict[str, Any], vision: dict[str, Any]) -> torch.nn.Module:
    """Return a model none of whose weights is 0 or 1, in which an error would not show."""
    options = {} if kind == "Siglip" else {"projection_dim": 32}
    config = getattr(transformers, f"{kind}Config")(
        text_config=text, vision_config=vision, **options
    )
    model = getattr(transformers, f"{kind}Model")(config).eval()
    for weights in model.parameters():
        weights.data += 0.1 * torch.randn_like(weights)
    return model


def embed(model: torch.nn.Module, processor: Processor) -> dict[str, torch.Tensor]:
    """Return images and texts, and the model's embeddings of them, of length 1."""
    size = model.config.vision_config.image_size
    images = torch.randint(0, 256, (4, 3, size, size), dtype=torch.uint8)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (processor.mean, processor.std))
    texts = processor.encode()
    with torch.no_grad():
        seen = model.get_image_features(pixel_values=(images / 255 - mean) / std).pooler_output
        read = model.get_text_features(**texts).pooler_output
    mask = texts.get("attention_mask", torch.ones_like(texts["input_ids"]))
    return {
        "images": images,
        "tokens": texts["input_ids"],
        "mask": mask.bool(),
        "image_embeddings": torch.nn.functional.normalize(seen, dim=1),
        "text_embeddings": torch.nn.functional.normalize(read, dim=1),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    for number, (name, (kind, text, vision, processor)) in enumerate(MODELS.items()):
        torch.manual_seed(number)
        model = build(kind, text, vision)
        save_file(embed(model, processor), folder / f"{name}.safetensors")
        model.save_pretrained(folder / name)
        processor.write(folder / name, size=vision["image_size"])
        if name == "clip":
            model.save_pretrained(folder / "in_parts", max_shard_size="100KB")
            processor.write(folder / "in_parts", size=vision["image_size"])


main()
