"""Two very small towers of a method, to lock, to adapt, to train."""

from typing import Any

import torch
from torch import Tensor

from xmodal.methods.clip import Clip, ClipConfig

OPTIONS = {"embed_dim": 32, "depth": 3, "num_heads": 2, "img_size": 32}
IMAGE = {"kind": "timm", "name": "vit_tiny_patch16_224", "size": 32, "options": OPTIONS}
TEXT = {"kind": "transformer", "width": 16, "layers": 2, "heads": 2}


def two_towers(image: dict[str, Any] = IMAGE, text: dict[str, Any] = TEXT) -> Clip:
    """A CLIP of a vision transformer and our small one, or of others, by one seed."""
    torch.manual_seed(0)
    values = {"kind": "clip", "image": image, "text": text, "embedding": 8}
    method: Clip = ClipConfig.model_validate(values).build(vocabulary=50)
    return method


def features(method: Clip) -> list[Tensor]:
    """What the towers make of three images, and of three captions of different lengths."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 255, (3, 3, 32, 32), dtype=torch.uint8, generator=generator)
    tokens = torch.randint(1, 50, (3, 7), generator=generator)
    mask = torch.arange(7) < torch.tensor([[7], [4], [1]])
    return [method.image(images), method.text(tokens, mask)]
