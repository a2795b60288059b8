"""Functions of a block of scores for Triton's kernel, one for each family of losses.

Each takes scores (rows, columns), −∞ where row and column are no negatives or lie outside; `rows`
and `columns`, tuples of the block's parts of the vectors that came along; `inside`, which rows and
columns there are; `first`, the places of the block's first row and column; `parameter` and
`rounding`. Each returns the slopes (rows, columns) or None, and two tuples of vectors: what is kept
of every row, and of every column. Functions that sum values return those of each row.
"""

import triton
import triton.language as tl

LOWEST = tl.constexpr(-3.0e38)
# Where scores, or statistics of rows and columns, lie within these of each other, one exponential
# serves rows and columns: none underflows, or only shares of less than e⁻⁴⁰ of any sum.
RANGE = tl.constexpr(80.0)
SPREAD = tl.constexpr(40.0)


@triton.jit
def softmax_statistics(scores, rows, columns, inside, first, parameter, rounding):
    """The log-sum-exp of rows and columns: a reference and Σ exp(s − reference)."""
    top = tl.maximum(tl.max(scores), LOWEST)  # of nothing but −∞ the maximum must stay finite
    low = tl.min(tl.where(scores > float("-inf"), scores, top))
    if top - low < RANGE:
        exponentials = tl.exp(scores - top)
        row_sum, column_sum = tl.sum(exponentials, 1), tl.sum(exponentials, 0)
        row_top, column_top = top + 0 * row_sum, top + 0 * column_sum
    else:
        row_top = tl.maximum(tl.max(scores, 1), LOWEST)
        row_sum = tl.sum(tl.exp(scores - row_top[:, None]), 1)
        column_top = tl.maximum(tl.max(scores, 0), LOWEST)
        column_sum = tl.sum(tl.exp(scores - column_top[None, :]), 0)
    return None, (row_top, row_sum), (column_top, column_sum)


@triton.jit
def softmax_slopes(scores, rows, columns, inside, first, parameter, rounding):
    """gᵢ exp(sᵢⱼ − rᵢ) + hⱼ exp(sᵢⱼ − cⱼ) of rows (r, g) and columns (c, h)."""
    r, g = rows
    c, h = columns
    low = tl.minimum(
        tl.min(tl.where(inside[0], r, float("inf"))), tl.min(tl.where(inside[1], c, float("inf")))
    )
    high = tl.maximum(
        tl.max(tl.where(inside[0], r, float("-inf"))), tl.max(tl.where(inside[1], c, float("-inf")))
    )
    if high - low < SPREAD:
        row_weights = g * tl.exp(tl.minimum(low - r, 0.0))
        column_weights = h * tl.exp(tl.minimum(low - c, 0.0))
        slopes = tl.exp(scores - low) * (row_weights[:, None] + column_weights[None, :])
    else:
        by_row = g[:, None] * tl.exp(scores - r[:, None])
        slopes = by_row + h[None, :] * tl.exp(scores - c[None, :])
    return slopes, (), ()


@triton.jit
def softplus(scores, rows, columns, inside, first, parameter, rounding):
    """log(1 + eˢ)."""
    values, slopes = _softplus(scores)
    return slopes, (tl.sum(values, 1),), ()


@triton.jit
def softplus_with_offset(scores, rows, columns, inside, first, parameter, rounding):
    """log(1 + eᶻ), z = score + row offset."""
    values, slopes = _softplus(scores + rows[0][:, None])
    return slopes, (tl.sum(values, 1), tl.sum(slopes, 1)), ()


@triton.jit
def _softplus(z):
    small = tl.exp(-tl.abs(z))
    slopes = tl.where(z > 0, 1.0, small) / (1 + small)
    return tl.maximum(z, 0.0) + _log1p(small), slopes


@triton.jit
def _log1p(u):
    """Return log(1 + u) of 0 ≤ u ≤ 1 as 2 artanh(u / (2 + u)): exact where u is tiny."""
    t = u / (2 + u)
    square = t * t
    series = 1 / 13 + square / 15
    series = 1 / 11 + square * series
    series = 1 / 9 + square * series
    series = 1 / 7 + square * series
    series = 1 / 5 + square * series
    series = 1 / 3 + square * series
    return 2 * t * (1 + square * series)


@triton.jit
def exp_less_one(scores, rows, columns, inside, first, parameter, rounding):
    """exp(s − 1)."""
    slopes = tl.exp(scores - 1.0)
    return slopes, (tl.sum(slopes, 1),), ()


@triton.jit
def _at_least(values, least):
    """Return the greater of two. What is no number stays so: `tl.maximum` would drop it."""
    return tl.where(values < least, least, values)


@triton.jit
def hinges(scores, rows, columns, inside, first, parameter, rounding):
    """[score + row offset]₊ + [score + column offset]₊."""
    by_row, by_column = scores + rows[0][:, None], scores + columns[0][None, :]
    values = _at_least(by_row, 0.0) + _at_least(by_column, 0.0)
    row_active = tl.where(by_row > 0, 1.0, 0.0)
    column_active = tl.where(by_column > 0, 1.0, 0.0)
    kept_of_rows = tl.sum(values, 1), tl.sum(row_active, 1)
    return row_active + column_active, kept_of_rows, (tl.sum(column_active, 0),)


@triton.jit
def _distances(scores, rows, columns, rounding):
    """Return 1/d and d from scores and the squares of lengths, and where d is not zero."""
    squares = rows[0][:, None] + columns[0][None, :]
    squared = squares - 2 * scores
    apart = tl.where(squared > 8 * rounding * squares, 1.0, 0.0)
    squared = _at_least(squared * apart, 1.1754944e-38)
    squared = tl.where(squared > 3.4028235e38, 3.4028235e38, squared)
    inverse = tl.rsqrt(squared)
    return inverse, squared * inverse, apart


@triton.jit
def distance_hinges(scores, rows, columns, inside, first, parameter, rounding):
    """[m − d]₊² of the distance d, m the parameter."""
    inverse, distances, apart = _distances(scores, rows, columns, rounding)
    hinges = _at_least(parameter - distances, 0.0)
    slopes = inverse * hinges * apart  # −1 × those by d²
    kept_of_rows = tl.sum(hinges * hinges, 1), -tl.sum(slopes, 1)
    return 2 * slopes, kept_of_rows, (-tl.sum(slopes, 0),)


@triton.jit
def laplacian(scores, rows, columns, inside, first, parameter, rounding):
    """exp(−γ d) of the distance d, γ the parameter."""
    inverse, distances, apart = _distances(scores, rows, columns, rounding)
    kernel = tl.exp(-parameter * distances)
    # A pair outside or of one id has an infinite distance: its kernel is 0, and so its slope.
    slopes = parameter * kernel * inverse * apart
    kept_of_rows = tl.sum(kernel, 1), -tl.sum(slopes, 1) / 2
    return slopes, kept_of_rows, (-tl.sum(slopes, 0) / 2,)


@triton.jit
def greatest(scores, rows, columns, inside, first, parameter, rounding):
    """The greatest score of rows and columns and the place of the first such, as float32's bits."""
    row_top, row_place = tl.max(scores, 1, return_indices=True)
    column_top, column_place = tl.max(scores, 0, return_indices=True)
    row_place = (row_place + first[1]).to(tl.int32).to(tl.float32, bitcast=True)
    column_place = (column_place + first[0]).to(tl.int32).to(tl.float32, bitcast=True)
    return None, (row_top, row_place), (column_top, column_place)


@triton.jit
def greatest_below(scores, rows, columns, inside, first, parameter, rounding):
    """As `greatest`, and the same once more of scores less than limits of rows and columns."""
    _, of_rows, of_columns = greatest(scores, rows, columns, inside, first, parameter, rounding)
    under = tl.where(scores < rows[0][:, None], scores, float("-inf"))
    _, near_rows, _ = greatest(under, rows, columns, inside, first, parameter, rounding)
    under = tl.where(scores < columns[0][None, :], scores, float("-inf"))
    _, _, near_columns = greatest(under, rows, columns, inside, first, parameter, rounding)
    return None, of_rows + near_rows, of_columns + near_columns
