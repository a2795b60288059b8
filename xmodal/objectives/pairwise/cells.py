"""Functions of scores that losses sum over all pairs, with their derivatives, in plain PyTorch."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from xmodal.objectives.pairwise.distances import squared_distances


@dataclass(frozen=True)
class Cell:
    """Values of a function of a tile of scores (rows, columns), and its derivatives."""

    value: Tensor  # () the sum over the tile
    slopes: Tensor  # (rows, columns) derivative by each score
    by_row: Tensor | None = None  # (rows,) derivative by each row's offset
    by_column: Tensor | None = None  # (columns,) derivative by each column's offset


# Of scores (rows, columns), which it may overwrite, and of offsets (rows, 1) and (1, columns). A
# function may have a parameter, its last argument, given by `functools.partial`.
CellFunction = Callable[[Tensor, Tensor, Tensor], Cell]


def softplus(scores: Tensor, row_offset: Tensor, column_offset: Tensor) -> Cell:  # noqa: ARG001
    """log(1 + eˢ)."""
    # From 40 on it is the score, in float64 too.
    value = F.softplus(scores, threshold=40).sum()
    return Cell(value, scores.sigmoid_())


def softplus_with_offset(scores: Tensor, row_offset: Tensor, _: Tensor) -> Cell:
    """log(1 + eᶻ), z = score + row offset."""
    logits = scores.add_(row_offset)
    slopes = logits.sigmoid()
    return Cell(F.softplus(logits, threshold=40).sum(), slopes, by_row=slopes.sum(1))


def exp_less_one(scores: Tensor, row_offset: Tensor, column_offset: Tensor) -> Cell:  # noqa: ARG001
    """exp(s − 1)."""
    slopes = scores.sub_(1).exp_()
    return Cell(slopes.sum(), slopes)


def hinges(scores: Tensor, row_offset: Tensor, column_offset: Tensor) -> Cell:
    """[score + row offset]₊ + [score + column offset]₊."""
    by_row = (scores + row_offset).clamp_(min=0)
    by_column = scores.add_(column_offset).clamp_(min=0)
    value = by_row.sum() + by_column.sum()
    active_row, active_column = by_row.sign_(), by_column.sign_()
    counts = active_row.sum(1), active_column.sum(0)
    return Cell(value, active_row.add_(active_column), *counts)


def distance_hinges(
    scores: Tensor, row_squares: Tensor, column_squares: Tensor, margin: float
) -> Cell:
    """[m − d]₊² of Euclidean distances d, given the squares of lengths as offsets."""
    squared, apart = squared_distances(scores, row_squares, column_squares)
    inverse = squared.rsqrt()
    below = squared.mul_(inverse).neg_().add_(margin).clamp_(min=0)
    slopes = inverse.mul_(below).mul_(apart)  # −1 × those by d²
    by_row, by_column = -slopes.sum(1), -slopes.sum(0)
    return Cell(below.square_().sum(), slopes.mul_(2), by_row, by_column)


def laplacian(scores: Tensor, row_squares: Tensor, column_squares: Tensor, gamma: float) -> Cell:
    """exp(−γ d) of Euclidean distances d, given the squares of lengths as offsets."""
    squared, apart = squared_distances(scores, row_squares, column_squares)
    distances = squared.sqrt_()
    kernel = torch.mul(distances, -gamma).exp_()
    value = kernel.sum()
    slopes = kernel.mul_(gamma).div_(distances).mul_(apart)
    return Cell(value, slopes, by_row=-slopes.sum(1) / 2, by_column=-slopes.sum(0) / 2)
