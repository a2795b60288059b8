"""Ranks of queries that are each searched in a gallery of their own."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xmodal.evaluation.metrics.recall import chance_recall
from xmodal.evaluation.metrics.tiles import Choice, judge_queries
from xmodal.methods.scores import dot_product


@dataclass(frozen=True)
class OwnRanks:
    """Ranks of queries, each in a gallery of its own."""

    ranks: Tensor  # (queries,) int64, 0-based, of the best relevant image; the last of all: none
    relevant: Tensor  # (queries,) int64, the number of relevant images
    searched: Tensor  # (queries,) int64, the number of images in the gallery

    def recalls(self, cutoffs: Sequence[int], prefix: str) -> dict[str, float]:
        """Return recalls at the cutoffs in percent, each with its chance, named `prefix@K`."""
        metrics = {}
        for k in cutoffs:
            chance = chance_recall(self.relevant, self.searched, k)
            hits = (self.ranks < k) & (self.relevant > 0)
            metrics[f"{prefix}@{k}"] = 100 * float(hits.double().mean())
            metrics[f"{prefix}@{k}_chance"] = 100 * float(chance.mean())
        return metrics

    def of(self, rows: Sequence[int]) -> "OwnRanks":
        """Return those of some queries."""
        return OwnRanks(self.ranks[rows], self.relevant[rows], self.searched[rows])


def own_ranks(
    queries: Tensor, gallery: Tensor, relevant: Choice, removed: Choice, tile: int
) -> OwnRanks:
    """Rank each query's best relevant item among those not removed, as `judge_queries` does.

    Without a relevant item the rank is the last of the whole gallery. The last of the query's own
    gallery would reward small galleries.

    Args:
        queries: (queries, dim) unit vectors.
        gallery: (items, dim) unit vectors.
        relevant: the items that some queries ask for.
        removed: the items that they are not searched among; one of these is not relevant.
        tile: about the largest side of a tile of scores.
    """

    def judge(rows: Tensor, scores: Tensor) -> Tensor:
        kept = ~removed(rows)
        is_relevant = relevant(rows) & kept
        best = scores.masked_fill(~is_relevant, -torch.inf).amax(1, keepdim=True)
        rivals = ((scores >= best) & kept & ~is_relevant).sum(1)
        ranks = rivals.where(is_relevant.any(1), len(gallery) - 1)
        return torch.stack([ranks, is_relevant.sum(1), kept.sum(1)], 1)

    values = judge_queries(queries, gallery, dot_product, tile, 3, judge)
    return OwnRanks(*values.long().unbind(1))
