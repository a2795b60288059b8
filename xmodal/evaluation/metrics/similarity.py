"""Similarities that order a gallery: one score, or a cheap score and a learned one for a shortlist.

A learned score of all images with all texts takes too long where there are many. A cheap score
then chooses a shortlist for every query. The learned score orders the shortlist, exactly. Items
beyond the shortlist keep the order of the cheap score.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from xmodal.activity import tracked
from xmodal.distributed.collectives import gather, rank, world_size
from xmodal.evaluation.metrics.ranking import Ranks, count_ranks
from xmodal.evaluation.metrics.tiles import Choice
from xmodal.evaluation.metrics.top_k import top_k
from xmodal.methods.scores import Function, as_score

PairScore = Callable[[Tensor, Tensor], Tensor]  # of (n, …) and (n, …), (n,)
BY_DISTANCE = "-by-distance"  # ends a protocol's name where the cheap score alone is measured
PAIRS = 2**14  # scored at a time
QUERIES = 4096  # whose shortlists are in memory at a time


@dataclass(frozen=True)
class Similarity:
    """Order of texts for an image.

    Attributes:
        score: maps blocks (a, …) of images and (b, …) of texts to scores (a, b).
        rescore: maps images (n, …) and texts (n, …) to the scores (n,) of these pairs, by which
            the first `shortlist` texts of an image are put in order again; None: they stay. Equal
            pairs have equal scores, to the last bit.
        shortlist: number of items that are put in order again.
    """

    score: Function
    rescore: PairScore | None = None
    shortlist: int = 0

    def swapped(self) -> "Similarity":
        """Return how texts put images in order."""
        score, rescore = self.score, self.rescore
        return Similarity(
            as_score(score).swapped(),
            None if rescore is None else lambda texts, images: rescore(images, texts),
            self.shortlist,
        )


def rank_all(
    images: Tensor, texts: Tensor, relevant_pairs: Tensor, similarity: Similarity, tile: int
) -> Ranks:
    """Rank each image's best relevant text and each text's best relevant image by `count_ranks`.

    A relevant item beyond the shortlist keeps its rank by the cheap score; the best of those within
    has the other items before it that the shortlist has in its new order.
    """
    relevant_pairs = relevant_pairs.to(images.device)
    ranks = count_ranks(images, texts, relevant_pairs, similarity.score, tile)
    if similarity.rescore is None:
        return ranks
    swapped = similarity.swapped()
    return Ranks(
        _ranks_again(ranks.image_to_text, images, texts, relevant_pairs, similarity, tile),
        _ranks_again(ranks.text_to_image, texts, images, relevant_pairs.flip(1), swapped, tile),
    )


def nearest(
    queries: Tensor,
    gallery: Tensor,
    k: int,
    similarity: Similarity,
    tile: int,
    removed: Choice | None = None,
) -> tuple[Tensor, Tensor]:
    """Find each query's k best items, best first: scores and int64 indices, (queries, k).

    Works on the calling process alone; a shortlist limits k. Items that are `removed` for a query
    come last, with a score of -inf.
    """
    if similarity.rescore is None:
        return top_k(queries, gallery, k, similarity.score, tile, removed)
    items, scores = _shortlisted(queries, gallery, similarity, tile, removed)
    scores, order = scores.sort(dim=1, descending=True, stable=True)
    return scores[:, :k], items.gather(1, order)[:, :k]


def score_chosen(rescore: PairScore, queries: Tensor, gallery: Tensor, chosen: Tensor) -> Tensor:
    """Return the scores of each query (queries, …) with the items `chosen` for it, (queries, k)."""
    rows = torch.arange(len(chosen), device=chosen.device).repeat_interleave(chosen.shape[1])
    used, items = chosen.flatten().unique(return_inverse=True)
    gallery = gallery[used]
    # Equal pairs are scored once, so that they have equal scores whatever `rescore` rounds.
    codes = first_equal(queries)[rows] * len(gallery) + first_equal(gallery)[items]
    codes, which = codes.unique(return_inverse=True)
    rows, items = codes // len(gallery), codes % len(gallery)
    scores = [
        rescore(queries[own_rows], gallery[own])
        for own_rows, own in zip(rows.split(PAIRS), items.split(PAIRS), strict=True)
    ]
    return torch.cat(scores)[which].view(chosen.shape)


def first_equal(items: Tensor) -> Tensor:
    """Return for each item (n, …) the place, (n,) int64, of the first that is equal to it."""
    values = items.flatten(1) if items.ndim > 1 else items[:, None]
    # Zeros of both signs are equal. numpy compares bytes, which torch does not.
    whole = (values + 0).cpu().contiguous().view(torch.uint8).numpy()
    _, first, which = np.unique(
        whole.view(f"V{whole.shape[1]}")[:, 0], return_index=True, return_inverse=True
    )
    return torch.from_numpy(first[which]).to(items.device)


def _shortlisted(
    queries: Tensor,
    gallery: Tensor,
    similarity: Similarity,
    tile: int,
    removed: Choice | None = None,
) -> tuple[Tensor, Tensor]:
    assert similarity.rescore is not None
    cheap, items = top_k(queries, gallery, similarity.shortlist, similarity.score, tile, removed)
    scores = score_chosen(similarity.rescore, queries, gallery, items)
    return items, scores if removed is None else scores.masked_fill(cheap.isneginf(), -torch.inf)


def _ranks_again(
    ranks: Tensor,
    queries: Tensor,
    gallery: Tensor,
    relevant_pairs: Tensor,
    similarity: Similarity,
    tile: int,
) -> Tensor:
    """Return the ranks (queries,) after the shortlist has been put in order."""
    relevant_keys = relevant_pairs[:, 0] * len(gallery) + relevant_pairs[:, 1]
    total = len(queries)
    own = torch.arange(
        total * rank() // world_size(), total * (rank() + 1) // world_size(), device=ranks.device
    )
    found = [ranks[:0]]
    for rows in tracked(own.split(QUERIES) if len(own) else (), "part of the shortlists"):
        items, scores = _shortlisted(queries[rows], gallery, similarity, tile)
        is_relevant = torch.isin(rows[:, None] * len(gallery) + items, relevant_keys)
        best = scores.masked_fill(~is_relevant, -torch.inf).amax(1, keepdim=True)
        rivals = ((scores >= best) & ~is_relevant).sum(1)
        again = torch.where(is_relevant.any(1), rivals, ranks[rows])
        found.append(again.masked_fill(scores.isnan().any(1), -1))
    ranks = gather(torch.cat(found))
    # All ranks hear of what one has met, or they would wait for it.
    if (ranks < 0).any():
        query = int((ranks < 0).nonzero()[0])
        raise ValueError(f"a score is NaN in the shortlist of query {query}")
    return ranks
