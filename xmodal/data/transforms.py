"""Image transform: choose a crop, decode it, and resize it to the encoder's square."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from xmodal.data.augmentations.augmentation import Augmentation
from xmodal.data.decode import EncodedImage, Reduction
from xmodal.data.deferred import Augment
from xmodal.data.preprocessing import PreprocessingConfig

Crop = tuple[int, int, int, int]  # top, left, height, width, in pixels of the whole image
REDUCTIONS: tuple[Reduction, ...] = (8, 4, 2)  # of the decoder
CENTRAL_SQUARE = PreprocessingConfig()
PILLOW = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class ImageTransform:
    """A random crop and flip in training (`crop`, `flip`), the model's preprocessing otherwise.

    A random crop takes its place, with the same interpolation. What is `deferred` is drawn alone.
    """

    size: int
    crop: tuple[float, float] | None = None
    flip: bool = False
    scaled_decoding: bool = False  # halve in the decoder where the crop leaves room
    augment: Augment | None = None
    deferred: Augmentation | None = None
    preprocessing: PreprocessingConfig = CENTRAL_SQUARE

    def __call__(
        self,
        image: EncodedImage,
        random: np.random.Generator,
        out: Tensor | None = None,
        draws: np.ndarray | None = None,
    ) -> Tensor:
        """Return (3, size, size) uint8, written to `out` if given.

        What is drawn for `deferred` is written to `draws`. The memory is channels-last; any other
        layout of `out` costs a slow copy. Raises `BadSample` for an image that does not decode,
        with `out` unchanged.
        """
        square = self._square(image, random)
        if self.flip and random.random() < 0.5:
            square = square.flip(2)
        if self.augment:
            square = self.augment(square, random)
        if self.deferred and draws is not None:
            draws[:] = self.deferred.draw(random)
        return square if out is None else out.copy_(square)

    def _square(self, image: EncodedImage, random: np.random.Generator) -> Tensor:
        if self.crop is None and self.preprocessing.resize != "crop":
            return fit(image.pixels(), self.size, self.preprocessing)
        crop, reduce = self.choose(image.height, image.width, random)
        part = cut(image.pixels(reduce), crop, reduce)
        return resize(part, self.size, self.preprocessing)

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


def resize(pixels: np.ndarray, size: int, by: PreprocessingConfig = CENTRAL_SQUARE) -> Tensor:
    """Resize (height, width, 3) uint8 pixels to (3, size, size) uint8, antialiased.

    The result's memory is (size, size, 3), which the pixels share where they have the size.
    """
    return resize_to(pixels, size, size, by)


def resize_to(pixels: np.ndarray, height: int, width: int, by: PreprocessingConfig) -> Tensor:
    """Resize pixels to (3, height, width), by the library and interpolation of a model."""
    if by.resizer == "pillow" and pixels.shape[:2] != (height, width):
        pillows = Image.fromarray(pixels)
        pixels = np.array(pillows.resize((width, height), PILLOW[by.interpolation]))
    # Seen as (1, 3, height, width), the pixels are channels-last, which torch resizes in uint8 as
    # they lie, a part of an image too. `[None]` last would give strides that it does not know.
    image = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
    if image.shape[-2:] != (height, width):
        image = F.interpolate(image, (height, width), mode=by.interpolation, antialias=True)
    return image[0]


def fit(pixels: np.ndarray, size: int, by: PreprocessingConfig) -> Tensor:
    """Return (3, size, size) uint8 of a whole image (height, width, 3), by `shortest`, `squash` or
    `longest` of a model's preprocessing.
    """
    sides = pixels.shape[:2]
    rows, columns = {
        "shortest": [int(size * side / min(sides)) for side in sides],
        "longest": [max(1, round(side * size / max(sides))) for side in sides],
    }.get(by.resize, [size, size])
    image = padded(resize_to(pixels, rows, columns, by), size, by.fill)
    margins = [side - size for side in image.shape[1:]]
    # Of an odd margin torchvision rounds the half to even, Hugging Face down.
    down = by.resizer == "torch"
    top, left = (one // 2 if down else round(one / 2) for one in margins)
    return image[:, top : top + size, left : left + size]


def padded(image: Tensor, size: int, fill: int) -> Tensor:
    """Return (3, height, width) with sides of `size` at least, the same added on both ends."""
    bottom, right = (max(0, size - side) for side in image.shape[1:])
    if not bottom and not right:
        return image
    ends = (right // 2, right - right // 2, bottom // 2, bottom - bottom // 2)
    return F.pad(image, ends, value=fill)
