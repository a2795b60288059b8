"""Write folders of sentence-transformers from one of transformers: FOLDER/today, FOLDER/legacy.

FOLDER/expected.safetensors has images and tokens, and what sentence-transformers makes of them.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from PIL import Image
from processors import TEXTS
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer

parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
parser.add_argument("model", type=Path)
arguments = parser.parse_args()
torch.manual_seed(0)
transformer = Transformer(str(arguments.model))
model = SentenceTransformer(modules=[transformer, Normalize()], device="cpu")
model.save(str(arguments.folder / "today"))

# As sentence-transformers/clip-ViT-B-32 is.
legacy = arguments.folder / "legacy"
shutil.copytree(arguments.model, legacy / "0_CLIPModel")
module = {
    "idx": 0,
    "name": "0",
    "path": "0_CLIPModel",
    "type": "sentence_transformers.models.CLIPModel",
}
(legacy / "modules.json").write_text(json.dumps([module]))

size = json.loads((arguments.model / "config.json").read_text())["vision_config"]["image_size"]
images = torch.randint(0, 256, (4, 3, size, size), dtype=torch.uint8)
pictures = [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in images]
texts = transformer.preprocess(TEXTS)
save_file(
    {
        "images": images,
        "tokens": texts["input_ids"],
        "mask": texts.get("attention_mask", torch.ones_like(texts["input_ids"])).bool(),
        "image_embeddings": model.encode(pictures, convert_to_tensor=True),
        "text_embeddings": model.encode(TEXTS, convert_to_tensor=True),
    },
    arguments.folder / "expected.safetensors",
)
loaded = SentenceTransformer(str(legacy), device="cpu").encode(TEXTS, normalize_embeddings=True)
assert abs(loaded - model.encode(TEXTS)).max() < 1e-6
