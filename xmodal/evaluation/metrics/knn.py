"""Classification by the nearest neighbours' vote (Caron et al. 2021, arXiv 2104.14294, section 3).

A neighbour votes for its classes with weight exp(cosine / 0.07) (Wu et al. 2018, arXiv 1805.01978).
"""

import torch
from torch import Tensor

from xmodal.evaluation.metrics.tiles import judge_queries
from xmodal.evaluation.metrics.visual import votes_right, worst_first
from xmodal.methods.scores import dot_product

NEIGHBOURS = (1, 5, 20)


def votes_of_nearest(
    test: Tensor, of_test: Tensor, train: Tensor, of_train: Tensor, tile: int
) -> Tensor:
    """Return whether the k nearest vote for a query's own class, for each k of `NEIGHBOURS`:
    (queries, numbers of neighbours) float64.

    Ties count against the model: of equally near items those of other classes come first, and of
    classes with equal votes a wrong one.

    Args:
        test: (queries, dim) unit vectors.
        of_test: (queries, classes) bool.
        train: (items, dim) unit vectors.
        of_train: (items, classes) bool.
        tile: about the largest side of a tile of scores.
    """

    def judge(rows: Tensor, scores: Tensor) -> Tensor:
        own = of_test[rows]
        near = nearest(scores, own.float() @ of_train.float().T > 0.5, max(NEIGHBOURS))
        cosines, of_near = scores.gather(1, near), of_train[near]
        votes = [votes_right(cosines[:, :k], of_near[:, :k], own) for k in NEIGHBOURS]
        return torch.stack(votes, 1)

    return judge_queries(test, train, dot_product, tile, len(NEIGHBOURS), judge)


def nearest(scores: Tensor, relevant: Tensor, count: int) -> Tensor:
    """Return the items (queries, ≤ count) of the highest scores, of equals the irrelevant first.

    All are sorted only where more than `count` items reach the last one's score.
    """
    count = min(count, scores.shape[1])
    top = scores.topk(count)
    if ((scores >= top.values[:, -1:]).sum(1) > count).any():
        return worst_first(scores, relevant.byte())[:, :count]
    near = top.indices.sort(1).values
    return near.gather(1, worst_first(scores.gather(1, near), relevant.gather(1, near).byte()))
