"""Write FOLDER/MODEL.safetensors for each MODEL: embeddings by sentence-transformers.

MODELS is a folder of its models, and IMAGES a safetensors file.
"""

import argparse
from pathlib import Path

from PIL import Image
from processors import TEXTS
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
parser.add_argument("models", type=Path)
parser.add_argument("images", type=Path)
arguments = parser.parse_args()
pixels = load_file(arguments.images)["images"]
images = [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in pixels]
for place in sorted(arguments.models.iterdir()):
    model = SentenceTransformer(str(place), device="cpu")
    save_file(
        {
            "image_embeddings": model.encode(images, convert_to_tensor=True),
            "text_embeddings": model.encode(TEXTS, convert_to_tensor=True),
        },
        arguments.folder / f"{place.name}.safetensors",
    )
