"""Write embeddings of random inputs by models that open_clip loads: PATH, or PATH:SIZE:CONTEXT."""

import argparse
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file


def embeddings(place: str) -> dict[str, torch.Tensor]:
    """Return inputs and embeddings of a folder's model; size and context resize its positions."""
    path, *sizes = place.split(":")
    forced = {}
    if sizes:
        forced = {"force_image_size": int(sizes[0]), "force_context_length": int(sizes[1])}
    model = open_clip.create_model(f"local-dir:{path}", **forced).eval()
    settings = model.visual.preprocess_cfg
    torch.manual_seed(1)
    size = settings["size"]
    side = size if isinstance(size, int) else size[0]
    images = torch.randint(0, 256, (3, 3, side, side), dtype=torch.uint8)
    tokens = torch.randint(8, 59, (4, model.context_length))
    text = getattr(model, "text", None)
    if getattr(text, "pool_type", None) == "eos":
        tokens[:, -1] = text.eos_id
    mean, std = (torch.tensor(settings[name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        return {
            "images": images,
            "tokens": tokens,
            "mask": torch.ones_like(tokens, dtype=torch.bool),
            "image_embeddings": model.encode_image((images / 255 - mean) / std, True),
            "text_embeddings": model.encode_text(tokens, True),
            "logit_scale": model.logit_scale.reshape(1),
        }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("places", nargs="+")
    arguments = parser.parse_args()
    for number, place in enumerate(arguments.places):
        save_file(embeddings(place), arguments.folder / f"{number}.safetensors")


if __name__ == "__main__":
    main()
