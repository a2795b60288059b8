"""Write FOLDER/NAME.npz as big_vision saves a SigLIP, and FOLDER/NAME.safetensors of embeddings.

They are those of open_clip, which reads such files; its activation is set to that of JAX.
"""

import argparse
from pathlib import Path

import numpy as np
import open_clip
import torch
from open_clip.convert import load_big_vision_weights
from safetensors.torch import save_file
from torch.nn.functional import normalize

WIDTH, HEADS, LAYERS, PATCH, GRID, CONTEXT, IDS = 32, 4, 2, 8, 3, 16, 90
MLP = 4 * WIDTH
Shapes = dict[str, tuple[int, ...]]


def under(place: str, shapes: Shapes) -> Shapes:
    return {f"{place}/{name}": shape for name, shape in shapes.items()}


def dense(width: int, out: int) -> Shapes:
    return {"kernel": (width, out), "bias": (out,)}


NORM = {"scale": (WIDTH,), "bias": (WIDTH,)}
ATTENTION = {
    **under("query", {"kernel": (WIDTH, HEADS, WIDTH // HEADS), "bias": (HEADS, WIDTH // HEADS)}),
    **under("key", {"kernel": (WIDTH, HEADS, WIDTH // HEADS), "bias": (HEADS, WIDTH // HEADS)}),
    **under("value", {"kernel": (WIDTH, HEADS, WIDTH // HEADS), "bias": (HEADS, WIDTH // HEADS)}),
    **under("out", {"kernel": (HEADS, WIDTH // HEADS, WIDTH), "bias": (WIDTH,)}),
}
POOL = {
    **under("MultiHeadDotProductAttention_0", ATTENTION),
    **under("LayerNorm_0", NORM),
    **under("MlpBlock_0/Dense_0", dense(WIDTH, MLP)),
    **under("MlpBlock_0/Dense_1", dense(MLP, WIDTH)),
}
BLOCK = POOL | under("LayerNorm_1", NORM)


def blocks(*, stacked: bool) -> Shapes:
    if stacked:
        return under("encoderblock", {name: (LAYERS, *shape) for name, shape in BLOCK.items()})
    return {
        name: shape
        for number in range(LAYERS)
        for name, shape in under(f"encoderblock_{number}", BLOCK).items()
    }


def shapes(*, stacked: bool) -> Shapes:
    image = {
        **under("embedding", {"kernel": (PATCH, PATCH, 3, WIDTH), "bias": (WIDTH,)}),
        "pos_embedding": (1, GRID**2, WIDTH),
        **under("Transformer", blocks(stacked=stacked) | under("encoder_norm", NORM)),
        **under("MAPHead_0", POOL | {"probe": (1, 1, WIDTH)}),
    }
    text = {
        "Embed_0/embedding": (IDS, WIDTH),
        "pos_embedding": (1, CONTEXT, WIDTH),
        **under("Encoder_0", blocks(stacked=stacked) | under("encoder_norm", NORM)),
        **under("head", dense(WIDTH, WIDTH)),
    }
    return under("img", image) | under("txt", text) | {"t": (1,), "b": (1,)}


def model() -> open_clip.CustomTextCLIP:
    gelu = {"approximate": "tanh"}
    built = open_clip.CustomTextCLIP(
        embed_dim=WIDTH,
        vision_cfg={
            "image_size": GRID * PATCH,
            "timm_model_name": "vit_base_patch16_siglip_224",
            "timm_pool": "map",
            "timm_proj": "none",
        },
        text_cfg={
            "context_length": CONTEXT,
            "vocab_size": IDS,
            "width": WIDTH,
            "heads": HEADS,
            "layers": LAYERS,
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
            "norm_kwargs": {"eps": 1e-6},
            "act_kwargs": gelu,
        },
        init_logit_bias=-10,
    )
    import timm

    built.visual.trunk = timm.create_model(
        "vit_base_patch16_siglip_224",
        img_size=GRID * PATCH,
        patch_size=PATCH,
        embed_dim=WIDTH,
        num_heads=HEADS,
        depth=LAYERS,
        act_layer="gelu_tanh",
    )
    return built.eval()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    for name, prefix in (("separate", "params/"), ("stacked", "")):
        torch.manual_seed(0)
        arrays = {
            f"{prefix}{key}": (0.3 * torch.randn(shape)).numpy()
            for key, shape in shapes(stacked=name == "stacked").items()
        }
        np.savez(folder / f"{name}.npz", **arrays)
        reference = model()
        load_big_vision_weights(reference, str(folder / f"{name}.npz"))
        images = torch.randint(0, 256, (4, 3, GRID * PATCH, GRID * PATCH), dtype=torch.uint8)
        tokens = torch.randint(0, IDS, (4, CONTEXT))
        with torch.no_grad():
            expected = {
                "images": images,
                "tokens": tokens,
                "mask": torch.ones_like(tokens, dtype=torch.bool),
                "image_embeddings": normalize(reference.encode_image(images / 127.5 - 1), dim=1),
                "text_embeddings": normalize(reference.encode_text(tokens), dim=1),
            }
        save_file(expected, folder / f"{name}.safetensors")


main()
