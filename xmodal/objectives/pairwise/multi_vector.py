"""Items of K embeddings: the score of two items is the greatest of their K × K products.

The two sides may differ in K. Of equal products the first counts: that of the row's first
embedding, and of those the column's first.
"""

from itertools import product

import torch
from torch import Tensor


def pair_scores(x: Tensor, y: Tensor) -> Tensor:
    """Return the score of each item of x with the same of y, (items,), never rounded.

    Both are (items, dim), or (items, K, dim).
    """
    products = [(one * other).sum(1) for one, other in product(_embeddings(x), _embeddings(y))]
    return torch.stack(products).max(0).values


def greatest(products: Tensor, embeddings_per_item: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return the scores of items, (rows, columns), and which of their K × K each is, as int64.

    `products` are (rows × K, columns × K), `embeddings_per_item` the K of rows and of columns.
    """
    of_rows, of_columns = embeddings_per_item
    by_items = products.unflatten(0, (-1, of_rows)).unflatten(2, (-1, of_columns))
    values, which = by_items.transpose(1, 2).flatten(2).max(2)
    return values, which


def spread(slopes: Tensor, which: Tensor, embeddings_per_item: tuple[int, int]) -> Tensor:
    """Return slopes by products, (rows × K, columns × K), from those by items' scores.

    `slopes` and `which` (rows, columns) belong to what `greatest` returned.
    """
    of_rows, of_columns = embeddings_per_item
    by_items = slopes.new_zeros(*slopes.shape, of_rows * of_columns)
    by_items.scatter_(2, which[..., None], slopes[..., None])
    return by_items.unflatten(2, embeddings_per_item).transpose(1, 2).flatten(2).flatten(0, 1)


def _embeddings(items: Tensor) -> tuple[Tensor, ...]:
    return (items,) if items.ndim == 2 else items.unbind(1)
