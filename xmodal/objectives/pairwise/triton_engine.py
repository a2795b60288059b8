"""Tiles of scores on a GPU that never leave the chip (Triton).

Where plain PyTorch writes the scores of a tile and reads them several times over, the kernel writes
what is kept of rows and columns, and slopes once. Slopes go through memory, in the precision of the
embeddings: their products with embeddings of common widths need more registers than a chip has, and
computing scores once more for each would cost more than the way through its cache.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from xmodal.objectives.pairwise import cells, triton_cells
from xmodal.objectives.pairwise.cells import Cell, CellFunction
from xmodal.objectives.pairwise.distances import product_rounding, rounds_to_tf32
from xmodal.objectives.pairwise.gradients import Gradients
from xmodal.objectives.pairwise.plain_engine import Top
from xmodal.objectives.pairwise.statistics import Statistics
from xmodal.objectives.pairwise.tiles import Tiles
from xmodal.objectives.pairwise.triton_launch import launch

MULTIPLE = 16  # numbers of a row: 16 bytes at least, and one compiled kernel for all widths


@dataclass(frozen=True)
class Family:
    """A function of the kernel, and how many vectors of rows and columns it takes and returns."""

    function: Any
    takes: int
    of_rows: int
    of_columns: int
    has_slopes: bool = True

    def constants(self, *, has_ids: bool) -> dict[str, Any]:
        """Return what the kernel is compiled for."""
        return {
            "function": self.function,
            "name": self.function.__name__,
            "has_ids": has_ids,
            "has_slopes": self.has_slopes,
            "takes": self.takes,
            "enable_fp_fusion": True,
        }


STATISTICS = Family(triton_cells.softmax_statistics, 0, 2, 2, has_slopes=False)
SLOPES = Family(triton_cells.softmax_slopes, 2, 0, 0)
GREATEST = Family(triton_cells.greatest, 0, 2, 2, has_slopes=False)
GREATEST_BELOW = Family(triton_cells.greatest_below, 1, 4, 4, has_slopes=False)
OF_CELLS: dict[Any, Family] = {
    cells.softplus: Family(triton_cells.softplus, 1, 1, 0),
    cells.softplus_with_offset: Family(triton_cells.softplus_with_offset, 1, 2, 0),
    cells.exp_less_one: Family(triton_cells.exp_less_one, 1, 1, 0),
    cells.hinges: Family(triton_cells.hinges, 1, 2, 1),
    cells.distance_hinges: Family(triton_cells.distance_hinges, 1, 2, 1),
    cells.laplacian: Family(triton_cells.laplacian, 1, 2, 1),
}
FAMILIES = [STATISTICS, SLOPES, GREATEST, GREATEST_BELOW, *OF_CELLS.values()]


def has_kernel(function: CellFunction) -> bool:
    """Return whether the kernel has a function of scores."""
    return _parts(function)[0] in OF_CELLS


class TritonEngine:
    """Computes what losses need of tiles by the kernel. Its methods are those of `PlainEngine`."""

    def __init__(self, tiles: Tiles) -> None:
        self.tiles = tiles
        self.x, self.y = (_whole_rows(side) for side in _multiplied(tiles.x, tiles.y))
        # Scores are scaled, not x: in bf16 its products would be rounded once more.
        self.scale = _vector(tiles.scale, self.x)
        sides = (tiles.ids.rows, tiles.ids.columns) if tiles.ids else ()
        self.codes = [side.to(torch.int32) for side in sides]

    def gradients(self, needed: Sequence[bool] = (True, True)) -> Gradients:
        """Return sums of the gradients by x and y, as far as `needed`, still 0."""
        return Gradients(self.tiles, needed)

    def statistics(self) -> Iterator[tuple[slice, slice, Statistics, Statistics]]:
        """Yield the statistics of rows and columns of blocks of the scores."""
        for i, j in self._strips():
            _, of_rows, of_columns = self._run(STATISTICS, i, j)
            yield i, j, _joined(*of_rows), _joined(*of_columns)

    def slopes(
        self, i: slice, j: slice, rows: Sequence[Tensor], columns: Sequence[Tensor]
    ) -> Tensor:
        """Return gᵢ exp(sᵢⱼ − rᵢ) + hⱼ exp(sᵢⱼ − cⱼ) of a tile, of rows (r, g), columns (c, h)."""
        return self._run(SLOPES, i, j, rows, columns)[0]

    def cell(self, function: CellFunction, i: slice, j: slice, a: Tensor, b: Tensor) -> Cell:
        """Return a function of a tile's scores and of offsets a (rows,) and b (columns,)."""
        plain, parameter = _parts(function)
        slopes, of_rows, of_columns = self._run(OF_CELLS[plain], i, j, [a], [b], parameter)
        value, *by_row = (blocks.sum(0) for blocks in of_rows)
        by_column = [blocks.sum(0) for blocks in of_columns]
        return Cell(value.sum(), slopes, *by_row or [None], *by_column or [None])

    def greatest(
        self, below: tuple[Tensor, Tensor] | None = None
    ) -> Iterator[tuple[slice, slice, list[Top], list[Top]]]:
        """Yield the greatest scores of rows and columns; and those below limits, where given."""
        family = GREATEST_BELOW if below else GREATEST
        for i, j in self._strips():
            limits = ([below[0][i]], [below[1][j]]) if below else ()
            _, of_rows, of_columns = self._run(family, i, j, *limits)
            yield i, j, _tops(of_rows, j.start), _tops(of_columns, i.start)

    def _strips(self) -> Iterator[tuple[slice, slice]]:
        """Yield blocks of rows with all columns: where no slopes are kept, a launch may be long."""
        for start in range(0, len(self.x), self.tiles.size):
            yield slice(start, min(start + self.tiles.size, len(self.x))), slice(0, len(self.y))

    def _run(
        self,
        family: Family,
        i: slice,
        j: slice,
        rows: Sequence[Tensor] = (),
        columns: Sequence[Tensor] = (),
        parameter: float = 0.0,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return a tile's slopes and the vectors of its blocks (vectors, blocks, length)."""
        x, y = self.x[i], self.y[j]
        slopes = _slopes_for(self.tiles.x, len(x), len(y)) if family.has_slopes else x
        codes = [codes[where] for codes, where in zip(self.codes, (i, j), strict=False)] or [x, y]
        vectors = [torch.stack([*side]).float() if side else self.scale for side in (rows, columns)]
        of_rows, of_columns = launch(
            x,
            (len(x), len(y)),
            (family.of_rows, family.of_columns),
            *(x, y, self.scale, *codes, *vectors, slopes),
            *(parameter, product_rounding(self.tiles.x), x.shape[1], slopes.stride(0)),
            **family.constants(has_ids=bool(self.codes)),
        )
        return slopes, of_rows, of_columns


def _multiplied(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return what tensor cores multiply, which read no more than TF32 of a float32.

    Where TF32 is allowed, that is x and y, rounded: the hardware would cut bits off. Elsewhere it
    is three products in one: each side split into what TF32 holds and the rest, and the rest's
    product with the rest skipped. That is as exact as float32.
    """
    if x.dtype != torch.float32:
        return x, y
    high_x, high_y = _tf32(x), _tf32(y)
    if rounds_to_tf32(x):
        return high_x, high_y
    low_x, low_y = _tf32(x - high_x), _tf32(y - high_y)
    return torch.cat([low_x, high_x, high_x], 1), torch.cat([high_y, low_y, high_y], 1)


def _tf32(values: Tensor) -> Tensor:
    """Return float32 rounded to the 11 bits of TF32; what is not finite stays as it is."""
    bits = (values.view(torch.int32) + 0x1000) & -0x2000
    return torch.where(values.isfinite(), bits.view(torch.float32), values)


def _whole_rows(values: Tensor) -> Tensor:
    """Return (rows, width) as descriptors need it: contiguous, aligned, rows of whole 16 bytes."""
    missing = -values.shape[1] % MULTIPLE
    values = F.pad(values, (0, missing)) if missing else values.contiguous()
    return values.clone() if values.data_ptr() % 16 else values


def _vector(scale: float | Tensor, like: Tensor) -> Tensor:
    """Return a scale as (1,) float32 on a device, without waiting for it."""
    if isinstance(scale, Tensor):
        return scale.float()
    return torch.full((1,), scale, dtype=torch.float32, device=like.device)


def _slopes_for(x: Tensor, rows: int, columns: int) -> Tensor:
    return x.new_empty(rows, columns + -columns % MULTIPLE)[:, :columns]


def _joined(tops: Tensor, sums: Tensor) -> Statistics:
    """Add up the statistics of blocks, (blocks, length)."""
    top = tops.amax(0)
    return Statistics(top, (sums * (tops - top).exp()).sum(0))


def _tops(vectors: Tensor, start: int) -> list[Top]:
    """Return the greatest of all blocks, of equal ones the first, whose place counts from `start`.

    `vectors` (2 or 4, blocks, length) are scores and their places in the tile, as bits.
    """
    found = []
    for scores, places in vectors.unflatten(0, (-1, 2)):
        top, block = scores.max(0)
        place = places.view(torch.int32).gather(0, block[None])[0]
        found.append(Top(top, place.long() + start))
    return found


def _parts(function: CellFunction) -> tuple[Any, float]:
    """Return a function and its parameter."""
    if isinstance(function, partial):
        (parameter,) = function.keywords.values()
        return function.func, parameter
    return function, 0.0
