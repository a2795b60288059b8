"""Write what the libraries' own evaluation transforms make of the images of a folder.

FOLDER/pixels.safetensors gets (3, size, size) float, normalised, by `TRANSFORM/IMAGE/SIZE`. Images
are opened upright, and on white where they are transparent, as xmodal opens them.
"""

import argparse
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import torch
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image, ImageOps
from safetensors.torch import save_file
from torch import Tensor
from transformers import ChineseCLIPImageProcessor, CLIPImageProcessor, SiglipImageProcessor

CLIP = {
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "std": (0.26862954, 0.26130258, 0.27577711),
}
SIZES = (32, 45)
PILLOW = {"lanczos": 1, "bilinear": 2, "bicubic": 3}
Transform = Callable[[Image.Image], Tensor]


def opened(path: Path) -> Image.Image:
    """Return an image upright; a transparent one on white."""
    image = ImageOps.exif_transpose(Image.open(path))
    if not image.has_transparency_data:
        return image
    white, image = Image.new("RGB", image.size, "white"), image.convert("RGBA")
    white.paste(image, mask=image)
    return white


def open_clip(size: int) -> Iterator[tuple[str, Transform]]:
    """Yield the transforms of open_clip by name."""
    for mode, interpolation in product(("shortest", "squash", "longest"), ("bicubic", "bilinear")):
        settings = {"resize_mode": mode, "interpolation": interpolation, "fill_color": 99}
        config = PreprocessCfg(size=size, **settings, **CLIP)
        yield f"open_clip-{mode}-{interpolation}", image_transform_v2(config, is_train=False)


def hugging_face(size: int) -> Iterator[tuple[str, Transform]]:
    """Yield the transforms of Hugging Face's processors by name."""
    square, short = {"height": size, "width": size}, {"shortest_edge": size}
    normal = {"image_mean": CLIP["mean"], "image_std": CLIP["std"]}
    for name, resample in PILLOW.items():
        cut = {"size": short, "crop_size": square, "resample": resample} | normal
        squash = {"size": square, "resample": resample}
        for kind, processor in (
            ("clip-shortest", CLIPImageProcessor(**cut)),
            ("chinese_clip-shortest", ChineseCLIPImageProcessor(**cut)),
            ("siglip-squash", SiglipImageProcessor(**squash)),
        ):
            yield f"{kind}-{name}", _called(processor)


def _called(processor: Callable) -> Transform:
    return lambda image: processor(images=image, return_tensors="pt").pixel_values[0]


parser = argparse.ArgumentParser()
parser.add_argument("folder", type=Path)
parser.add_argument("images", type=Path)
given = parser.parse_args()
torch.set_num_threads(1)
made = {
    f"{name}/{path.name}/{size}": transform(opened(path)).contiguous()
    for size in SIZES
    for name, transform in (*open_clip(size), *hugging_face(size))
    for path in sorted(given.images.iterdir())
}
save_file(made, given.folder / "pixels.safetensors")
