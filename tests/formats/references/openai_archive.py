"""Write a small random CLIP as OpenAI's TorchScript archives are, with inputs and embeddings."""

import argparse
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    torch.manual_seed(0)
    model = open_clip.CLIP(
        embed_dim=16,
        vision_cfg={"image_size": 32, "patch_size": 8, "width": 128, "layers": 2},
        text_cfg={"context_length": 12, "vocab_size": 60, "width": 64, "heads": 1, "layers": 2},
        quick_gelu=True,
    ).eval()
    path = folder / "archive.pt"
    example = (torch.ones(2, 3, 32, 32), torch.zeros(2, 12, dtype=torch.int))
    torch.jit.save(torch.jit.trace(model, example, check_trace=False).half(), path)
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    tokens = torch.randint(1, 60, (4, 12))
    loaded = model.half().float()
    statistics = (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    mean, std = (torch.tensor(one).view(3, 1, 1) for one in statistics)
    with torch.no_grad():
        outputs = {
            "images": images,
            "tokens": tokens,
            "mask": torch.ones_like(tokens, dtype=torch.bool),
            "image_embeddings": loaded.encode_image((images / 255 - mean) / std, True),
            "text_embeddings": loaded.encode_text(tokens, True),
        }
    save_file(outputs, folder / "outputs.safetensors")


if __name__ == "__main__":
    main()
