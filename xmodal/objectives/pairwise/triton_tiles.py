"""Tiles of scores on a GPU that never leave the chip (Triton).

The matrix product, the mask of negatives and the exponentials are one kernel: where plain PyTorch
writes the scores of a tile and reads them several times over, this writes a tile's statistics, or
its slopes once. Both are cut into blocks, which the kernels' programs take one each.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from xmodal.objectives.pairwise.statistics import Statistics
from xmodal.objectives.pairwise.tiles import Tiles

BLOCK = 128  # rows and columns of a program's block
LOWEST = tl.constexpr(-3.0e38)


def statistics(tiles: Tiles, rows: slice, columns: slice) -> tuple[Statistics, Statistics]:
    """Return the statistics of a tile's rows (rows,) and columns (columns,)."""
    x, y = tiles.x[rows], tiles.y[columns]
    grid = triton.cdiv(len(x), BLOCK), triton.cdiv(len(y), BLOCK)
    row_max, row_sum = x.new_empty(2, grid[1], len(x), dtype=tiles.dtype)
    column_max, column_sum = x.new_empty(2, grid[0], len(y), dtype=tiles.dtype)
    _launch(
        _statistics[grid],
        _operands(tiles, rows, columns),
        (row_max, row_sum, column_max, column_sum),
        **_shapes(tiles, rows, columns),
    )
    return _join(row_max, row_sum), _join(column_max, column_sum)


def slopes(
    tiles: Tiles,
    rows: slice,
    columns: slice,
    by_row: Tensor,
    by_column: Tensor,
    row_gradient: Tensor,
    column_gradient: Tensor,
) -> Tensor:
    """Return gᵢ exp(sᵢⱼ − rᵢ) + gⱼ exp(sᵢⱼ − cⱼ) of a tile, (rows, columns).

    `by_row`, `row_gradient` (rows,) and `by_column`, `column_gradient` (columns,) are the tile's.
    """
    x, y = tiles.x[rows], tiles.y[columns]
    out = x.new_empty(len(x), len(y))
    _launch(
        _slopes[triton.cdiv(len(x), BLOCK), triton.cdiv(len(y), BLOCK)],
        (*_operands(tiles, rows, columns), by_row, by_column, row_gradient, column_gradient),
        (out,),
        **_shapes(tiles, rows, columns),
    )
    return out


def _launch(
    kernel: Any, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], **constants: Any
) -> None:
    """Run a kernel, which counts on every tensor having its numbers next to each other."""
    kernel(*(each.contiguous() for each in inputs), *outputs, **constants)


def _operands(tiles: Tiles, rows: slice, columns: slice) -> tuple[Tensor, ...]:
    x, y = tiles.x[rows], tiles.y[columns]
    codes = (tiles.ids.rows[rows], tiles.ids.columns[columns]) if tiles.ids else (x, y)
    # Scores are scaled, not x: in bf16 its products would be rounded once more.
    scale = tiles.scale
    if not isinstance(scale, Tensor):
        scale = x.new_full((1,), scale)
    return x, y, scale.to(tiles.dtype), *codes


def _shapes(tiles: Tiles, rows: slice, columns: slice) -> dict[str, Any]:
    return {
        "num_rows": rows.stop - rows.start,
        "num_columns": columns.stop - columns.start,
        "width": tiles.x.shape[1],
        "has_ids": bool(tiles.ids and tiles.ids.may_meet(rows, columns)),
        "block": BLOCK,
        "block_width": 32,
        "sums": tl.float64 if tiles.dtype == torch.float64 else tl.float32,
        # As torch's own products of float32: rounded to TF32 only where that is allowed.
        "precision": "tf32" if _rounds_to_tf32(tiles.x) else "ieee",
        "num_warps": 8,
    }


def _rounds_to_tf32(x: Tensor) -> bool:
    return x.dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"


def _join(tops: Tensor, sums: Tensor) -> Statistics:
    """Add up the statistics of blocks, (blocks, length)."""
    top = tops.amax(0)
    return Statistics(top, (sums * (tops - top).exp()).sum(0))


@triton.jit
def _rounded(x, precision: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return float32 rounded to TF32 where that is allowed: the hardware would cut bits off."""
    if precision == "tf32":
        bits = (x.to(tl.int32, bitcast=True) + 0x1000) & -0x2000
        x = tl.where(x == x, bits.to(tl.float32, bitcast=True), x)
    return x


@triton.jit
def _scores(  # type: ignore[no-untyped-def]
    x,
    y,
    scale,
    x_codes,
    y_codes,
    num_rows,
    num_columns,
    width,
    has_ids,
    block,
    block_width,
    precision,
    sums,
):
    """Return this program's block of scores, and its rows and columns."""
    i = tl.program_id(0) * block + tl.arange(0, block)
    j = tl.program_id(1) * block + tl.arange(0, block)
    in_rows, in_columns = i < num_rows, j < num_columns
    scores = tl.zeros((block, block), dtype=sums)
    for start in range(0, width, block_width):
        k = start + tl.arange(0, block_width)
        in_width = k < width
        a = tl.load(
            x + i[:, None] * width + k[None, :],
            mask=in_rows[:, None] & in_width[None, :],
            other=0.0,
        )
        b = tl.load(
            y + j[None, :] * width + k[:, None],
            mask=in_columns[None, :] & in_width[:, None],
            other=0.0,
        )
        a, b = _rounded(a, precision), _rounded(b, precision)
        scores += tl.dot(a, b, input_precision=precision, out_dtype=sums)
    scores *= tl.load(scale)
    counted = in_rows[:, None] & in_columns[None, :]
    if has_ids:
        row_codes = tl.load(x_codes + i, mask=in_rows, other=-1)
        column_codes = tl.load(y_codes + j, mask=in_columns, other=-1)
        counted = counted & (row_codes[:, None] != column_codes[None, :])
    return tl.where(counted, scores, float("-inf")), i, j


@triton.jit
def _statistics(  # type: ignore[no-untyped-def]
    x,
    y,
    scale,
    x_codes,
    y_codes,
    row_max,
    row_sum,
    column_max,
    column_sum,
    num_rows,
    num_columns,
    width: tl.constexpr,
    has_ids: tl.constexpr,
    block: tl.constexpr,
    block_width: tl.constexpr,
    precision: tl.constexpr,
    sums: tl.constexpr,
):
    scores, i, j = _scores(
        x,
        y,
        scale,
        x_codes,
        y_codes,
        num_rows,
        num_columns,
        width,
        has_ids,
        block,
        block_width,
        precision,
        sums,
    )
    # Of nothing but −∞ the maximum must stay finite.
    top = tl.maximum(tl.max(scores, 1), LOWEST)
    row = tl.program_id(1) * num_rows + i
    tl.store(row_max + row, top, mask=i < num_rows)
    tl.store(row_sum + row, tl.sum(tl.exp(scores - top[:, None]), 1), mask=i < num_rows)
    top = tl.maximum(tl.max(scores, 0), LOWEST)
    column = tl.program_id(0) * num_columns + j
    tl.store(column_max + column, top, mask=j < num_columns)
    tl.store(column_sum + column, tl.sum(tl.exp(scores - top[None, :]), 0), mask=j < num_columns)


@triton.jit
def _slopes(  # type: ignore[no-untyped-def]
    x,
    y,
    scale,
    x_codes,
    y_codes,
    by_row,
    by_column,
    row_gradient,
    column_gradient,
    out,
    num_rows,
    num_columns,
    width: tl.constexpr,
    has_ids: tl.constexpr,
    block: tl.constexpr,
    block_width: tl.constexpr,
    precision: tl.constexpr,
    sums: tl.constexpr,
):
    scores, i, j = _scores(
        x,
        y,
        scale,
        x_codes,
        y_codes,
        num_rows,
        num_columns,
        width,
        has_ids,
        block,
        block_width,
        precision,
        sums,
    )
    in_rows, in_columns = i < num_rows, j < num_columns
    r = tl.load(by_row + i, mask=in_rows, other=0.0)[:, None]
    c = tl.load(by_column + j, mask=in_columns, other=0.0)[None, :]
    g = tl.load(row_gradient + i, mask=in_rows, other=0.0)[:, None]
    h = tl.load(column_gradient + j, mask=in_columns, other=0.0)[None, :]
    slopes = g * tl.exp(scores - r) + h * tl.exp(scores - c)
    place = i[:, None] * num_columns + j[None, :]
    tl.store(out + place, slopes, mask=in_rows[:, None] & in_columns[None, :])
