"""Pictures to be augmented."""

import torch
from torch import Tensor


def picture(size: int = 40, seed: int = 0) -> Tensor:
    """Smooth colours, (3, size, size) uint8, in channels-last memory."""
    small = torch.rand(1, 3, 5, 5, generator=torch.Generator().manual_seed(seed)) * 255
    large = torch.nn.functional.interpolate(small, (size, size), mode="bilinear")
    return large[0].to(torch.uint8).permute(1, 2, 0).contiguous().permute(2, 0, 1)
