"""Euclidean distances from scores."""

import torch
from torch import Tensor


def squared_distances(
    scores: Tensor, row_squares: Tensor, column_squares: Tensor
) -> tuple[Tensor, Tensor]:
    """Return d² = |x|² + |y|² − 2 x·y, in place of a tile's scores, and where it is not zero.

    `row_squares` (rows, 1) and `column_squares` (1, columns) are |x|² and |y|². Both results are
    (rows, columns); the second is 1, or 0 where d² is zero but for rounding. A slope would be
    unbounded there: multiply it by the second result. d² itself is positive and
    finite everywhere, so that no such product is NaN.
    """
    limits = torch.finfo(scores.dtype)
    squares = row_squares + column_squares
    squared = torch.add(squares, scores, alpha=-2, out=scores)
    apart = torch.gt(squared, squares.mul_(8 * product_rounding(scores)), out=squares)
    return squared.mul_(apart).clamp_(limits.tiny, limits.max), apart


def product_rounding(values: Tensor) -> float:
    """Return the relative rounding of products of such values, or that scores are sums of."""
    if rounds_to_tf32(values):
        return 2**-10
    return torch.finfo(torch.promote_types(values.dtype, torch.float32)).eps


def rounds_to_tf32(values: Tensor) -> bool:
    """Return whether products of float32 may be rounded to TF32, as torch's own are."""
    is_single = values.is_cuda and values.dtype == torch.float32
    return is_single and torch.get_float32_matmul_precision() != "highest"
