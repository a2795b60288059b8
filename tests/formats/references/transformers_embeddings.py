"""Write FOLDER/MODEL.safetensors for each MODEL: embeddings by transformers of images and texts.

MODELS is a folder of models as transformers reads them, and IMAGES a safetensors file. Everything
goes through the model's own processor.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image
from processors import TEXTS
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoProcessor

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
parser.add_argument("models", type=Path)
parser.add_argument("images", type=Path)
arguments = parser.parse_args()
pixels = load_file(arguments.images)["images"]
images = [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in pixels]
for place in sorted(arguments.models.iterdir()):
    model = AutoModel.from_pretrained(place).eval()
    processor = AutoProcessor.from_pretrained(place)
    padding = "max_length" if model.config.model_type == "siglip" else True
    with torch.no_grad():
        seen = model.get_image_features(**processor(images=images, return_tensors="pt"))
        texts = processor(text=TEXTS, padding=padding, truncation=True, return_tensors="pt")
        read = model.get_text_features(**texts)
    embeddings = {"image_embeddings": seen.pooler_output, "text_embeddings": read.pooler_output}
    save_file(
        {"tokens": texts["input_ids"]}
        | {name: torch.nn.functional.normalize(one, dim=1) for name, one in embeddings.items()},
        arguments.folder / f"{place.name}.safetensors",
    )
