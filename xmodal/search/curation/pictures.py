"""Small grey pictures of images, and how alike two of them are: re-encoded, cropped or mirrored.

An image is reduced to 64 × 64 grey pixels whatever its shape. Two are alike where all of one
correlates with all of the other, or with a part of it that has 95 % of its sides, in 16 × 16 areas
less their surroundings; the same for its mirror image. A crop or a flip changes an embedding more
than it changes these. Without the surroundings, a bright sky above dark ground is like any other.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from xmodal.activity import activity
from xmodal.data.decode import BadSample, Reduction, open_image
from xmodal.errors import UserError
from xmodal.search.searcher import Searcher

SIDE = 64  # pixels of a small picture
AREAS = 16  # a side, that are compared
SURROUNDINGS = 1.5  # areas: the deviation of the Gaussian that averages them
FAINT = 0.5  # grey levels: a picture of smaller deviation is like no other
PART = 0.95  # share of a side that a crop may leave
PLACES = 5  # of such a part along a side
PAIRS = 1024  # compared at a time
READERS = 8  # threads
UNREADABLE = 0.1  # share of images that may be damaged
REMEDY = "or compare embeddings alone: --rule embeddings --similarity S"


class GreyPictures:
    """Small grey pictures of the images of a set, in a file: (rows, 64, 64) uint8."""

    def __init__(self, searcher: Searcher, path: Path) -> None:
        self.searcher = searcher
        shape = (len(searcher.sides["images"]), SIDE, SIDE)
        self.pixels = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
        self.unreadable = 0

    def load(self, rows: np.ndarray) -> None:
        """Read the images of rows; a damaged one is like no other.

        Raises `UserError` where more than a tenth of them are damaged, or one is not there.
        """
        with (
            activity("reading images", len(rows)) as done,
            ThreadPoolExecutor(READERS) as pool,
        ):
            for start in range(0, len(rows), PAIRS):
                block = rows[start : start + PAIRS].tolist()
                for row, picture in zip(block, pool.map(self._read, block), strict=True):
                    self.unreadable += picture is None
                    self.pixels[row] = 0 if picture is None else picture
                    done.advance()
        if self.unreadable > UNREADABLE * len(rows):
            raise UserError(
                f"{self.unreadable:,} of {len(rows):,} images of {self.searcher.info.data.url} "
                f"cannot be read: build these shards again, {REMEDY}"
            )

    def _read(self, row: int) -> np.ndarray | None:
        try:
            return grey_picture(self.searcher.picture(row))
        except BadSample:
            return None
        except UserError as error:
            raise UserError(f"{error}: put the shards back, {REMEDY}") from None


def grey_picture(data: bytes) -> np.ndarray:
    """Return an encoded image as (64, 64) uint8; raises `BadSample`."""
    image = open_image(data)
    smaller: Iterator[Reduction] = (
        n for n in (8, 4, 2) if min(image.height, image.width) >= n * SIDE
    )
    pixels = Image.fromarray(image.pixels(next(smaller, 1))).convert("L")
    return np.asarray(pixels.resize((SIDE, SIDE), Image.Resampling.BOX))


def correlations(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the greatest correlation of each pair of small pictures (n, 64, 64), (n,) float32, and
    whether it is that with the mirror image, (n,) bool.
    """
    a, b = windows(first), windows(second)
    best = np.maximum(_best(a[:, 0], b), _best(b[:, 0], a))
    return best.max(1), best[:, 1] > best[:, 0]


def windows(pictures: np.ndarray) -> np.ndarray:
    """Return the windows of small pictures (n, 64, 64) as vectors of length 1, (n, windows, 256).

    The first is the whole picture, the others its parts. A picture of one grey is nearly zero.
    """
    weights = _window_weights()
    lines = pictures.reshape(-1, SIDE).astype(np.float32) @ weights.T
    lines = lines.reshape(len(pictures), SIDE, -1).swapaxes(1, 2)
    areas = (lines.reshape(-1, SIDE) @ weights.T).reshape(len(pictures), PLACES + 1, AREAS, -1)
    areas = areas.reshape(*areas.shape[:3], PLACES + 1, AREAS).transpose(0, 1, 3, 4, 2)
    parts = areas[:, 1:, 1:].reshape(len(areas), -1, AREAS**2)
    flat = np.concatenate([areas[:, 0, 0].reshape(len(areas), 1, -1), parts], 1)
    flat -= _surroundings(flat)
    flat -= flat.mean(-1, keepdims=True)
    lengths = np.linalg.norm(flat, axis=-1, keepdims=True)
    return flat / np.maximum(lengths, FAINT * AREAS)


def _surroundings(flat: np.ndarray) -> np.ndarray:
    areas = flat.reshape(*flat.shape[:-1], AREAS, AREAS)
    sigma = (0, 0, SURROUNDINGS, SURROUNDINGS)
    return np.asarray(gaussian_filter(areas, sigma, mode="nearest")).reshape(flat.shape)


def _best(whole: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """Return the greatest correlation of a picture (n, 256), and of its mirror image, with any
    window of another (n, windows, 256): (n, 2).
    """
    mirrored = whole.reshape(-1, AREAS, AREAS)[:, :, ::-1].reshape(whole.shape)
    best: np.ndarray = (parts @ np.stack([whole, mirrored], -1)).max(1)
    return best


@cache
def _window_weights() -> np.ndarray:
    """Return the weights (windows × 16, 64) that average the areas of a line of pixels: of the
    whole line, then of its parts.
    """
    parts = [_area_weights(start, PART) for start in np.linspace(0, 1 - PART, PLACES)]
    return np.concatenate([_area_weights(0, 1), *parts])


def _area_weights(start: float, length: float) -> np.ndarray:
    edges = np.linspace(start, start + length, AREAS + 1) * SIDE
    pixels = np.arange(SIDE)
    upper = np.minimum(edges[1:, None], pixels + 1)
    overlap = np.clip(upper - np.maximum(edges[:-1, None], pixels), 0, None)
    return (overlap / overlap.sum(1, keepdims=True)).astype(np.float32)
