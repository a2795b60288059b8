"""Write what a library makes of images and captions with a model: FOLDER/embeddings.safetensors.

LIBRARY is `hf`, `open_clip` or `sentence-transformers`, MODEL a folder that it loads, and DATA one
of images with captions.json. Everything goes through the model's own processor and tokenizer.
"""

import argparse
import json
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize

Images = list[Image.Image]


def hf(path: str, images: Images, captions: list[str]) -> dict[str, Tensor]:
    from transformers import AutoModel, AutoProcessor

    model, processor = AutoModel.from_pretrained(path).eval(), AutoProcessor.from_pretrained(path)
    padding = "max_length" if model.config.model_type == "siglip" else True
    seen = model.get_image_features(**processor(images=images, return_tensors="pt"))
    texts = processor(text=captions, padding=padding, truncation=True, return_tensors="pt")
    read = model.get_text_features(**texts)
    return scales(model) | {"images": seen.pooler_output, "texts": read.pooler_output}


def open_clip(path: str, images: Images, captions: list[str]) -> dict[str, Tensor]:
    from open_clip import create_model_from_pretrained, get_tokenizer

    model, transform = create_model_from_pretrained(f"local-dir:{path}")
    model.eval()
    seen = model.encode_image(torch.stack([transform(image) for image in images]))
    read = model.encode_text(get_tokenizer(f"local-dir:{path}")(captions))
    return scales(model) | {"images": seen, "texts": read}


def scales(model: torch.nn.Module) -> dict[str, Tensor]:
    """Return a model's scale of scores, and its bias where it has one."""
    both = {name: getattr(model, name, None) for name in ("logit_scale", "logit_bias")}
    return {name: one.reshape(1) for name, one in both.items() if one is not None}


def sentence_transformers(path: str, images: Images, captions: list[str]) -> dict[str, Tensor]:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(path, device="cpu")
    both = {"images": images, "texts": captions}
    return {name: model.encode(one, convert_to_tensor=True) for name, one in both.items()}


LIBRARIES = {"hf": hf, "open_clip": open_clip, "sentence-transformers": sentence_transformers}

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
parser.add_argument("library", choices=LIBRARIES)
parser.add_argument("model")
parser.add_argument("data", type=Path)
given = parser.parse_args()
pictures = [Image.open(path).convert("RGB") for path in sorted(given.data.glob("*.png"))]
sentences = json.loads((given.data / "captions.json").read_text())
with torch.no_grad():
    made = LIBRARIES[given.library](given.model, pictures, sentences)
for side in ("images", "texts"):
    made[side] = normalize(made[side], dim=1)
save_file(
    {name: one.detach().contiguous() for name, one in made.items()},
    given.folder / "embeddings.safetensors",
)
