"""Cutting the scores of a batch into tiles, without the pairs that are no negatives."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from xmodal.devices import is_on_host
from xmodal.objectives.pairwise.multi_vector import greatest, spread

CPU_TILE = 512  # 1 MiB of scores in float32: about what a core's own cache holds
NO_ROWS = -(2**63)  # id of a column that is no row's negative
# 64 MiB of slopes in float32, a thousand programs of a kernel. The same on every GPU and at every
# moment: by its size the order of summation follows, and so the last bits of a loss.
GPU_TILE = 4096


class Alike(NamedTuple):
    """Ids of rows (rows,) and columns (columns,), and vectors of both, such as of their texts.

    No negatives are those of equal ids, and those whose vectors have a product above a limit.
    """

    row_ids: Tensor
    column_ids: Tensor
    row_vectors: Tensor  # (rows, dim), without gradient
    column_vectors: Tensor  # (columns, dim), without gradient
    limit: float


NoNegatives = tuple[Tensor, Tensor] | Alike  # ids of rows (rows,) and columns (columns,), or more


@dataclass(frozen=True)
class Tile:
    """The scores of a block of rows with a block of columns."""

    rows: slice
    columns: slice
    scores: Tensor  # (rows, columns), −∞ where row and column are no negatives
    which: Tensor | None  # (rows, columns) int64: place among K × K products; None where K is 1

    @property
    def both(self) -> tuple[slice, slice]:
        """The blocks of rows and columns."""
        return self.rows, self.columns


class Tiles:
    """Scores s x·y of all rows (rows, dim) with all columns (columns, dim), a row block at a time.

    Of (rows, K, dim) with (columns, K, dim) a score is the greatest of K × K. `ids` are (rows,) and
    (columns,) int64, or None where every pair is a negative. With `positives` the scores of equal
    ids count and those of negatives are −∞; tiles without an id in common are skipped.
    """

    of_pair: tuple[int, ...] = ()  # the shape of a pair's scores, where it has several

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        ids: NoNegatives | None,
        size: int | None,
        scale: Tensor | None = None,
        *,
        positives: bool = False,
    ) -> None:
        self.x, self.y = x.detach(), y.detach()
        self.dtype = precise(x[:0]).dtype  # of scores and sums
        self.scale = _factor(scale, self.dtype)
        self.embeddings_per_item = _embeddings_per_item(x), _embeddings_per_item(y)
        self.size = max(1, (size or tile_size(x.device)) // max(self.embeddings_per_item))
        self.ids = _ids_of(ids, self.size) if ids else None
        self.positives = positives
        self.buffer: Tensor | None = None

    def __iter__(self) -> Iterator[Tile]:
        for rows, columns in self.blocks():
            yield self.tile(rows, columns)

    def tile(self, rows: slice, columns: slice) -> Tile:
        """Return a tile, its scores in memory that the next one's take over."""
        scores, which = self.products(rows, columns), None
        if self.embeddings_per_item != (1, 1):
            scores, which = greatest(scores, self.embeddings_per_item)
        if self.ids and self.may_meet(rows, columns):
            meet = self.ids.meet(rows, columns)
            scores.masked_fill_(~meet if self.positives else meet, -torch.inf)
        return Tile(rows, columns, scores, which)

    def scores(self, rows: slice, columns: slice) -> Tensor:
        """Return the scores of a tile alone."""
        return self.tile(rows, columns).scores

    def by_product(self, tile: Tile, slopes: Tensor) -> Tensor:
        """Return slopes by products (rows × K, columns × K), given those by scores."""
        if tile.which is None:
            return slopes
        return spread(slopes, tile.which, self.embeddings_per_item)

    def products(self, rows: slice, columns: slice) -> Tensor:
        """Return the products of a tile, of K × K each, in memory that the next one's take over."""
        x, y = self.x[rows].flatten(0, -2), self.y[columns].flatten(0, -2)
        if self.buffer is None:
            largest = (len(side[: self.size].flatten(0, -2)) for side in (self.x, self.y))
            self.buffer = x.new_empty(math.prod(largest), dtype=self.dtype)
        out = self.buffer[: len(x) * len(y)].view(len(x), len(y))
        if x.dtype != self.dtype:
            add_product(out.zero_(), x, y.T, self.scale)
        elif isinstance(self.scale, Tensor):
            torch.mm(x * self.scale, y.T, out=out)
        else:
            torch.addmm(out, x, y.T, beta=0, alpha=self.scale, out=out)
        return out

    def blocks(self) -> Iterator[tuple[slice, slice]]:
        """Yield the rows and columns of each tile."""
        for rows in _cut(len(self.x), self.size):
            for columns in _cut(len(self.y), self.size):
                if not self.positives or self.may_meet(rows, columns):
                    yield rows, columns

    def may_meet(self, rows: slice, columns: slice) -> bool:
        """Return False only where no row of a tile has the id of a column."""
        return self.ids is not None and self.ids.may_meet(rows, columns)


def block_ranges(values: Tensor, size: int) -> list[tuple[float, float]]:
    """Return the least and greatest value of every block of `size`."""
    ends = [torch.stack(block.aminmax()) for block in values.split(size) if len(block)]
    return [(low, high) for low, high in torch.stack(ends).tolist()] if ends else []


def add_product(total: Tensor, a: Tensor, b: Tensor, scale: float | Tensor = 1.0) -> None:
    """Add scale · a @ b to `total`: multiplied in the precision of b, summed in that of `total`."""
    if isinstance(scale, Tensor):
        total.addcmul_(_product(a, b, total.dtype), scale)
    elif b.dtype == total.dtype:
        total.addmm_(a, b, alpha=scale)
    else:
        total.add_(_product(a, b, total.dtype), alpha=scale)


def _product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    a = a.to(b.dtype)
    if b.is_cuda and b.dtype != dtype:
        return torch.mm(a, b, out_dtype=dtype)
    # On a CPU products come back rounded to the precision of b once more.
    return torch.mm(a, b).to(dtype)


def gradient_of_scale(tiles: Tiles, dx: Tensor) -> Tensor:
    """Return the gradient, (1,), by the scale of the scores, given that by x: Σ x·dx / s."""
    return torch.einsum("...d,...d->...", tiles.x.to(dx.dtype), dx).sum()[None] / tiles.scale


def precise(values: Tensor) -> Tensor:
    """Return the values in float32 at least, in which scores are and are added up."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def tile_size(device: torch.device) -> int:
    """Return rows and columns of a tile that suit a device."""
    return GPU_TILE if device.type == "cuda" else CPU_TILE


def num_negatives(x_ids: Tensor, y_ids: Tensor) -> Tensor:
    """Return for each row (rows,) how many columns have another id, as int64 (rows,)."""
    return len(y_ids) - num_equal(x_ids, y_ids)


def num_equal(x_ids: Tensor, y_ids: Tensor) -> Tensor:
    """Return for each row (rows,) how many columns have its id, as int64 (rows,)."""
    ordered = y_ids.sort().values
    return torch.searchsorted(ordered, x_ids, right=True) - torch.searchsorted(ordered, x_ids)


def first_equal(x_ids: Tensor, y_ids: Tensor) -> Tensor:
    """Return for each row (rows,) the first column that has its id, as int64 (rows,); −1: none."""
    if not len(y_ids):
        return torch.full_like(x_ids, -1)
    ordered, order = y_ids.sort(stable=True)
    place = torch.searchsorted(ordered, x_ids).clamp(max=len(y_ids) - 1)
    return torch.where(ordered[place] == x_ids, order[place], -1)


class _Ids:
    """Pairs of equal ids, with a fast test for tiles that have none.

    An id is coded as the first column that bears it. Where ids hardly repeat, codes then rise with
    rows and columns, and only tiles along the diagonal have codes in common. Columns of `NO_ROWS`
    have a negative code, and meet every row.
    """

    def __init__(self, x_ids: Tensor, y_ids: Tensor, size: int) -> None:
        self.rows = first_equal(x_ids, y_ids)
        self.columns = first_equal(y_ids, y_ids).masked_fill(y_ids == NO_ROWS, -1)
        self.size = size
        self.ranges = (
            [block_ranges(codes, size) for codes in (self.rows, self.columns)]
            if is_on_host(x_ids)
            else None
        )

    def may_meet(self, rows: slice, columns: slice) -> bool:
        """Return False only where no row has the id of a column."""
        if self.ranges is None:
            return True
        (low, high), (least, most) = (
            ranges[block.start // self.size]
            for ranges, block in zip(self.ranges, (rows, columns), strict=True)
        )
        return least < 0 or (low <= most and least <= high)

    def meet(self, rows: slice, columns: slice) -> Tensor:
        """Return (rows, columns) bool, True where the ids are equal."""
        codes = self.columns[columns]
        return (self.rows[rows, None] == codes).logical_or_(codes < 0)


class AlikeIds(_Ids):
    """Pairs of equal ids, and of vectors that are alike, which may be in any tile."""

    def __init__(self, alike: Alike, size: int) -> None:
        super().__init__(alike.row_ids, alike.column_ids, size)
        self.alike = alike

    def may_meet(self, rows: slice, columns: slice) -> bool:
        """Return True: vectors tell only when they are multiplied."""
        del rows, columns
        return True

    def meet(self, rows: slice, columns: slice) -> Tensor:
        """Return (rows, columns) bool, True where ids are equal or vectors alike."""
        x, y = self.alike.row_vectors[rows], self.alike.column_vectors[columns]
        products = precise(x) @ precise(y).to(precise(x).dtype).T
        return super().meet(rows, columns).logical_or_(products > self.alike.limit)


def _ids_of(ids: NoNegatives, size: int) -> _Ids:
    return AlikeIds(ids, size) if isinstance(ids, Alike) else _Ids(*ids, size)


def _factor(scale: Tensor | None, dtype: torch.dtype) -> float | Tensor:
    """Return a scale (1,) as a number where it can be read without waiting, else of `dtype`."""
    if scale is None:
        return 1.0
    return float(scale) if is_on_host(scale) else scale.detach().to(dtype)


def _embeddings_per_item(items: Tensor) -> int:
    return 1 if items.ndim == 2 else items.shape[1]


def _cut(length: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, length)) for start in range(0, length, size)]
