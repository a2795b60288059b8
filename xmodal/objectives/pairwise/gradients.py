"""Gradients of scores by the embeddings and the scale, added up a tile at a time."""

from collections.abc import Sequence

import torch
from torch import Tensor

from xmodal.objectives.pairwise.tiles import Tiles, add_product, gradient_of_scale


class Gradients:
    """Sums of the gradients of scores s x·y by x and by y, as far as they are `needed`."""

    def __init__(self, tiles: Tiles, needed: Sequence[bool] = (True, True)) -> None:
        self.tiles = tiles
        self.x, self.y = (
            torch.zeros_like(side, dtype=tiles.dtype) if is_needed else None
            for side, is_needed in zip((tiles.x, tiles.y), needed, strict=True)
        )

    def add(self, i: slice, j: slice, slopes: Tensor) -> None:
        """Add those of a tile, given slopes by products (rows, columns), of K × K each."""
        x, y = self.tiles.x, self.tiles.y
        if self.x is not None:
            add_product(self.x[i].flatten(0, -2), slopes, y[j].flatten(0, -2), self.tiles.scale)
        if self.y is not None:
            add_product(self.y[j].flatten(0, -2), slopes.T, x[i].flatten(0, -2), self.tiles.scale)

    def sums(self) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients by x and by y."""
        return self.x, self.y

    def by_scale(self) -> Tensor:
        """Return the gradient by the scale, (1,); that by x must have been needed."""
        assert self.x is not None
        return gradient_of_scale(self.tiles, self.x)
