"""Changes of colours and sharpness, each image of a batch by an amount of its own.

The arithmetic is torchvision's, which has one amount for all images. Images are (batch, 3, height,
width) float32 of whole numbers from 0 to 255, amounts (batch, 1, 1, 1) float64.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def blend(images: Tensor, others: Tensor, factor: Tensor) -> Tensor:
    """Return factor × images + (1 - factor) × others.

    Others are black for a change of brightness, `grey` for one of saturation, and its `mean` for
    one of contrast.
    """
    rest = (1 - factor).float()
    return images.mul(factor.float()).addcmul_(others, rest).clamp_(0, 255).floor_()


def grey(images: Tensor) -> Tensor:
    """Return the luminance, (batch, 1, height, width)."""
    red, green, blue = images.split(1, 1)
    return red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_()


def mean(levels: Tensor) -> Tensor:
    """Return the mean of (batch, 1, height, width), (batch, 1, 1, 1), with the same last bit on
    every device: sums of whole numbers are exact, and `torch.mean` divides otherwise on a GPU.
    """
    return levels.sum((1, 2, 3), keepdim=True) / levels[0].numel()


def turn_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Return images with hues turned, in whole turns."""
    images = images.mul(1 / 255)
    red, green, _ = images.unbind(1)
    low, high = images.aminmax(dim=1)
    spread = high - low
    saturation = spread / high.where(spread > 0, 1)
    # How far each channel is below the highest one: 0 to 1.
    below = (high[:, None] - images) / spread.where(spread > 0, 1)[:, None]
    hue = torch.where(
        high == red,
        below[:, 2] - below[:, 1],
        torch.where(high == green, below[:, 0] + 2 - below[:, 2], below[:, 1] + 4 - below[:, 0]),
    )
    hue = hue.mul_(1 / 6).add_(1).fmod_(1).add_(turns[:, 0].float()).remainder_(1)
    return _from_hsv(hue, saturation, high).mul_(256 - 1e-3).floor_()


def _from_hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Return the colours, (batch, 3, height, width) from 0 to 1, of (batch, height, width) each."""
    sixths = hue.mul(6)
    sector = sixths.floor()
    within = saturation * sixths.sub_(sector)
    dull = 1 - saturation
    falling = (1 - within).mul_(value).clamp_(0, 1)
    rising = within.add_(dull).mul_(value).clamp_(0, 1)
    lowest = dull.mul_(value).clamp_(0, 1)

    def channel(first: int) -> Tensor:
        """Return a channel that is highest up to the sector `first`, and falls within it."""
        since = (sector - first).remainder_(6)
        low = torch.where(since < 3, lowest, rising)
        high = torch.where(since == 0, falling, value)
        return torch.where((since >= 1) & (since <= 3), low, high)

    return torch.stack([channel(1), channel(3), channel(5)], 1)


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur each image by a Gaussian of this standard deviation, cut to a tenth of the size."""
    batch, channels, height, width = images.shape
    length = max(3, width // 10 | 1)
    reach = (length - 1) / (2 * math.sqrt(2))
    places = torch.linspace(-reach, reach, length, device=images.device)
    kernels = (places / sigma.flatten(1).float()).square().neg().softmax(1)
    kernels = kernels[:, None].expand(-1, channels, -1).reshape(-1, 1, length)
    # Rows, then columns, in channels-last memory: as both at once, in a fifth of the time.
    images = images.contiguous(memory_format=torch.channels_last)
    images = images.reshape(1, -1, height, width)
    for kernel in (kernels[:, :, None], kernels[:, :, :, None]):
        margins = (kernel.shape[3] // 2,) * 2 + (kernel.shape[2] // 2,) * 2
        padded = F.pad(images, margins, mode="reflect")
        images = F.conv2d(padded, kernel, groups=len(kernel))
    return images.reshape(batch, channels, height, width).round_()
