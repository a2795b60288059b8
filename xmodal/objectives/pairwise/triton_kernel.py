"""The kernel that computes scores, and what a loss needs of them, on the chip (Triton).

Every program takes one block of scores after another. A block is multiplied by tensor cores from
tiles that the tensor-memory accelerator fetches, where the chip has one; masked; and given to one
function of `triton_cells`. Only what that returns is written: vectors, and slopes where a gradient
is wanted. Neighbours in time are neighbours in the matrix, so that the cache has what they share.
"""

import triton
import triton.language as tl


@triton.jit
def _place(number, down, across, group: tl.constexpr):
    """Return row and column of a block among down × across, `group` rows of blocks at a time."""
    start = number // (group * across) * group
    height = tl.minimum(down - start, group)
    within = number % (group * across)
    return start + within % height, within // height


@triton.jit
def _loaded(vectors, count: tl.constexpr, length, places, inside):
    """Return a block's part of each of some vectors, (count, length), as a tuple."""
    parts = ()
    for n in tl.static_range(count):
        part = tl.load(vectors + n * length + places, mask=inside, other=0.0)
        parts = parts + (part,)  # type: ignore[assignment]  # noqa: RUF005 - Triton's tuple
    return parts


@triton.jit
def _scores(x_tiles, y_tiles, row, column, width, block: tl.constexpr, depth: tl.constexpr):
    """Return the products of a block of rows with a block of columns."""
    scores = tl.zeros(block, dtype=tl.float32)
    for k in range(0, width, depth):
        x, y = x_tiles.load([row, k]), y_tiles.load([column, k])
        scores = tl.dot(x, y.T, scores, input_precision="tf32")
    return scores


@triton.jit(
    do_not_specialize=["num_rows", "num_columns", "blocks_down", "blocks_across"],
    do_not_specialize_on_alignment=["x_codes", "y_codes"],
)
def pair_kernel(
    x,
    y,
    scale,
    x_codes,
    y_codes,
    row_vectors,
    column_vectors,
    slopes,
    parameter,
    rounding,
    width,
    slopes_width,
    of_rows,
    of_columns,
    num_rows,
    num_columns,
    blocks_down,
    blocks_across,
    function: tl.constexpr,
    name: tl.constexpr,
    has_ids: tl.constexpr,
    has_slopes: tl.constexpr,
    takes: tl.constexpr,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
    block_bytes: tl.constexpr,
):
    """Give every block of scores to `function` and write what it returns.

    x (rows, width) and y (columns, width) have their numbers side by side and rows of whole 16
    bytes; so has `slopes`, whose rows are `slopes_width` long. `of_rows` (n, blocks across, rows)
    and `of_columns` (n, blocks down, columns) get the vectors of each block. The kernel's blocks
    may be larger than those two are made for: then only the first are written.
    """
    depth: tl.constexpr = block_bytes // (x.dtype.element_ty.primitive_bitwidth // 8)
    x_tiles = tl.make_tensor_descriptor(x, [num_rows, width], [width, 1], [block_rows, depth])
    y_tiles = tl.make_tensor_descriptor(y, [num_columns, width], [width, 1], [block_columns, depth])
    if has_slopes:
        slope_tiles = tl.make_tensor_descriptor(
            slopes, [num_rows, num_columns], [slopes_width, 1], [block_rows, block_columns]
        )
    s = tl.load(scale)
    down, across = tl.cdiv(num_rows, block_rows), tl.cdiv(num_columns, block_columns)
    for number in tl.range(tl.program_id(0), down * across, tl.num_programs(0), flatten=True):
        block_row, block_column = _place(number, down, across, 8)
        row, column = block_row * block_rows, block_column * block_columns
        scores = s * _scores(
            x_tiles, y_tiles, row, column, width, (block_rows, block_columns), depth
        )
        i, j = row + tl.arange(0, block_rows), column + tl.arange(0, block_columns)
        in_rows, in_columns = i < num_rows, j < num_columns
        counted = in_rows[:, None] & in_columns[None, :]
        if has_ids:
            row_codes = tl.load(x_codes + i, mask=in_rows, other=-1)
            column_codes = tl.load(y_codes + j, mask=in_columns, other=-1)
            counted = counted & (column_codes >= 0)[None, :]
            counted = counted & (row_codes[:, None] != column_codes[None, :])
        found, by_row, by_column = function(
            tl.where(counted, scores, float("-inf")),
            _loaded(row_vectors, takes, num_rows, i, in_rows),
            _loaded(column_vectors, takes, num_columns, j, in_columns),
            (in_rows, in_columns),
            (row, column),
            parameter,
            rounding,
        )
        if has_slopes:
            slope_tiles.store([row, column], found.to(slopes.dtype.element_ty))
        for n in tl.static_range(len(by_row)):
            start = (n * blocks_across + block_column) * num_rows
            tl.store(of_rows + start + i, by_row[n], mask=in_rows)
        for n in tl.static_range(len(by_column)):
            start = (n * blocks_down + block_row) * num_columns
            tl.store(of_columns + start + j, by_column[n], mask=in_columns)
