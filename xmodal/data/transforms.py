"""Image transform: choose a crop, decode it, and resize it to the encoder's square."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from xmodal.data.decode import EncodedImage, Reduction
from xmodal.data.preprocessing import Interpolation, PreprocessingConfig, ResizeMode

Crop = tuple[int, int, int, int]  # top, left, height, width, in pixels of the whole image
REDUCTIONS: tuple[Reduction, ...] = (8, 4, 2)  # of the decoder
PILLOW = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class ImageTransform:
    """A random crop and flip in training (`crop`, `flip`), the model's preprocessing otherwise.

    A random crop takes its place, with the same interpolation.
    """

    size: int
    crop: tuple[float, float] | None = None
    flip: bool = False
    scaled_decoding: bool = False  # halve in the decoder where the crop leaves room
    augment: Callable[[Tensor, np.random.Generator], Tensor] | None = None
    preprocessing: PreprocessingConfig = field(default_factory=PreprocessingConfig)

    def __call__(
        self, image: EncodedImage, random: np.random.Generator, out: Tensor | None = None
    ) -> Tensor:
        """Return (3, size, size) uint8, written to `out` if given.

        The memory is channels-last; any other layout of `out` costs a slow copy. Raises
        `BadSample` for an image that does not decode, with `out` unchanged.
        """
        square = self._square(image, random)
        if self.flip and random.random() < 0.5:
            square = square.flip(2)
        if self.augment:
            square = self.augment(square, random)
        return square if out is None else out.copy_(square)

    def _square(self, image: EncodedImage, random: np.random.Generator) -> Tensor:
        mode, interpolation = self.preprocessing.resize, self.preprocessing.interpolation
        if self.crop is None and mode != "crop":
            return fit(image.pixels(), self.size, mode, interpolation)
        crop, reduce = self.choose(image.height, image.width, random)
        return resize(cut(image.pixels(reduce), crop, reduce), self.size, interpolation)

    def choose(
        self, height: int, width: int, random: np.random.Generator
    ) -> tuple[Crop, Reduction]:
        """Return the crop of an image of this size, and the decoder's reduction factor.

        The reduced crop is no smaller than the square, and its edges lie between pixels of the
        reduced image, so that the square is not shifted by a part of a pixel.
        """
        if self.crop:
            crop = random_crop(height, width, self.crop, random)
        else:
            crop = central_square(height, width)
        room = min(crop[2:]) // self.size if self.scaled_decoding else 1
        reduce: Reduction = next((reduce for reduce in REDUCTIONS if reduce <= room), 1)
        return snap(crop, reduce, height, width), reduce


def random_crop(
    height: int, width: int, share: tuple[float, float], random: np.random.Generator
) -> Crop:
    """Draw (top, left, height, width) of a crop: area uniform in `share` of the image, ratio of
    its sides log-uniform in 3/4 to 4/3, as Inception's (Szegedy et al. 2015); the central square
    when ten draws do not fit.
    """
    for _ in range(10):
        area = height * width * random.uniform(*share)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        columns, rows = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < columns <= width and 0 < rows <= height:
            top = int(random.integers(height - rows + 1))
            left = int(random.integers(width - columns + 1))
            return top, left, rows, columns
    return central_square(height, width)


def central_square(height: int, width: int) -> Crop:
    """Return (top, left, height, width) of the largest square in the middle."""
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side


def snap(crop: Crop, step: int, height: int, width: int) -> Crop:
    """Return the crop, moved and shrunk by less than `step`, with its edges at multiples of it."""
    top, left, rows, columns = crop
    top, rows = _snap(top, rows, step, height)
    left, columns = _snap(left, columns, step, width)
    return top, left, rows, columns


def _snap(first: int, length: int, step: int, side: int) -> tuple[int, int]:
    length = length // step * step
    return min((first + step // 2) // step * step, side // step * step - length), length


def cut(pixels: np.ndarray, crop: Crop, reduce: int = 1) -> np.ndarray:
    """Return the part (rows, columns, 3) of `pixels` in a crop of the full image.

    `pixels` (height, width, 3) is the image with both sides divided by `reduce`, rounded up; the
    crop is one that `snap` made for `reduce`.
    """
    top, left, rows, columns = (length // reduce for length in crop)
    return pixels[top : top + rows, left : left + columns]


def resize(pixels: np.ndarray, size: int, interpolation: Interpolation = "bicubic") -> Tensor:
    """Resize (height, width, 3) uint8 pixels to (3, size, size) uint8, antialiased.

    The result's memory is (size, size, 3), which the pixels share where they have the size.
    """
    if interpolation != "bicubic":
        return torch.from_numpy(resize_to(pixels, size, size, interpolation)).permute(2, 0, 1)
    # Seen as (1, 3, height, width), the pixels are channels-last, which torch resizes in uint8 as
    # they lie, a part of an image too. `[None]` last would give strides that it does not know.
    image = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
    if image.shape[-2:] != (size, size):
        image = F.interpolate(image, (size, size), mode="bicubic", antialias=True)
    return image[0]


def resize_to(
    pixels: np.ndarray, height: int, width: int, interpolation: Interpolation
) -> np.ndarray:
    """Resize uint8 pixels to (height, width, 3) by Pillow, as the libraries do that models are of.

    Pixels that have the size are returned as they are.
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    resized = Image.fromarray(pixels).resize((width, height), PILLOW[interpolation])
    return np.array(resized)


def fit(pixels: np.ndarray, size: int, mode: ResizeMode, interpolation: Interpolation) -> Tensor:
    """Return (3, size, size) uint8 of a whole image (height, width, 3), by one of the modes
    `shortest`, `squash` and `longest` of `PreprocessingConfig`.
    """
    height, width = pixels.shape[:2]
    if mode == "squash":
        return resize(pixels, size, interpolation)
    shorter, longer = min(height, width), max(height, width)
    if mode == "shortest":
        sides = [int(size * side / shorter) for side in (height, width)]
    else:
        sides = [max(1, round(side * size / longer)) for side in (height, width)]
    return centred(resize_to(pixels, sides[0], sides[1], interpolation), size)


def centred(pixels: np.ndarray, size: int) -> Tensor:
    """Return the middle (3, size, size) of pixels (height, width, 3), and black around them."""
    square = np.zeros((size, size, 3), np.uint8)
    tops = [round((side - size) / 2) for side in pixels.shape[:2]]
    rows, columns = (slice(max(top, 0), max(top, 0) + size) for top in tops)
    part = pixels[rows, columns]
    top, left = ((size - side + 1) // 2 for side in part.shape[:2])
    square[top : top + part.shape[0], left : left + part.shape[1]] = part
    return torch.from_numpy(square).permute(2, 0, 1)
