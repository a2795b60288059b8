"""The rows of a side that are nearest to a query: exactly, or among approximate candidates."""

import torch
from torch import Tensor

from xmodal.evaluation.metrics.similarity import Similarity, nearest
from xmodal.search.index_folder import Side

TILE = 2016  # rows whose scores are computed at a time


def nearest_rows(
    side: Side, query: Tensor, k: int, similarity: Similarity, allowed: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return scores and rows, (n,) with n at most k, of the items nearest to a query, best first.

    The query is (dim,) or (K, dim) float32. Of equal scores the lowest row comes first. `allowed`,
    (rows,) bool, are the rows that may be found.
    """
    gallery = side.vectors
    if not len(gallery) or (allowed is not None and not allowed.any()):
        return torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.int64)
    removed = None if allowed is None else ~allowed[None]
    choice = None if removed is None else (lambda _: removed)
    scores, rows = nearest(query[None], gallery, k, similarity, TILE, choice)
    found = scores[0] > -torch.inf
    return scores[0][found], rows[0][found]
