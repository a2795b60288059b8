"""The rows of a side that are nearest to a query: exactly, or among approximate candidates."""

import torch
from torch import Tensor

from xmodal.evaluation.metrics.similarity import Similarity, nearest
from xmodal.search.index_folder import Side

TILE = 4032  # rows whose scores are computed at a time


def nearest_rows(
    side: Side, query: Tensor, k: int, similarity: Similarity, allowed: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return scores and rows, (n,) with n at most k, of the items nearest to a query, best first.

    The query is (dim,) or (K, dim) float32. Of equal scores the lowest row comes first. `allowed`,
    (rows,) bool, are the rows that may be found.
    """
    gallery, nothing = side.vectors, (torch.zeros(0).double(), torch.zeros(0).long())
    if not len(gallery):
        return nothing
    if side.approximation is not None:
        depth = max(k, similarity.shortlist)
        among = side.approximation.candidates(query, depth, allowed)
        if not len(among):
            return nothing
        scores, places = nearest(query[None], gallery[among], k, similarity, TILE)
        return scores[0], among[places[0]]
    choice = None if allowed is None else (lambda _: ~allowed[None])
    scores, rows = nearest(query[None], gallery, k, similarity, TILE, choice)
    found = scores[0] > -torch.inf
    return scores[0][found], rows[0][found]
