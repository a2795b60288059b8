"""Items of K senses, an embedding each: the score of two items is the greatest of their K × K.

The two sides may differ in K. Of equal scores the first counts: that of the row's first sense, and
of those the column's first.
"""

from itertools import product

import torch
from torch import Tensor


def pair_scores(x: Tensor, y: Tensor) -> Tensor:
    """Return the score of each item of x with the same of y, (items,), never rounded.

    Both are (items, dim), or (items, K, dim).
    """
    by_sense = [(one * other).sum(1) for one, other in product(_senses(x), _senses(y))]
    return torch.stack(by_sense).max(0).values


def greatest(scores: Tensor, senses: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the scores of items, (rows, columns), and which of their K × K each is, as int64.

    `scores` (rows × K, columns × K) are of their senses, `senses` the K of rows and of columns.
    """
    by_items = scores.unflatten(0, (-1, senses[0])).unflatten(2, (-1, senses[1]))
    values, which = by_items.transpose(1, 2).flatten(2).max(2)
    return values, which


def spread(slopes: Tensor, which: Tensor, senses: tuple[int, int]) -> Tensor:
    """Return slopes by scores of senses, (rows × K, columns × K), from those by items' scores.

    `slopes` and `which` (rows, columns) belong to what `greatest` returned.
    """
    by_items = slopes.new_zeros(*slopes.shape, senses[0] * senses[1])
    by_items.scatter_(2, which[..., None], slopes[..., None])
    return by_items.unflatten(2, senses).transpose(1, 2).flatten(2).flatten(0, 1)


def _senses(items: Tensor) -> tuple[Tensor, ...]:
    return (items,) if items.ndim == 2 else items.unbind(1)
