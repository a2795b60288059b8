"""Recall of an approximate index against exact search, and the effort that reaches it.

Queries are rows of each side: texts find other images than images do. A row does not count among
its own hits. Items that score as high as the tenth of exact search are as good as that.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from xmodal.activity import activity
from xmodal.evaluation.metrics.similarity import Similarity
from xmodal.evaluation.metrics.top_k import top_k
from xmodal.search.approximate import name_of_effort
from xmodal.search.index_folder import ApproximationInfo, IndexedSide, Side
from xmodal.search.nearest_rows import TILE, nearest_rows
from xmodal.search.own_score import KnownLengths
from xmodal.search.vector_file import VectorFile, sample

K = 10
WANTED = 0.98
MOST, LEAST = 500, 50  # queries of a side; fewer where the items are many
COMPARED = 10**9  # pairs of queries and items, about
CHUNK = 64 * 2**20  # bytes of vectors that are compared at a time


@dataclass(frozen=True)
class Sample:
    """Queries of a side, with what exact search finds for them.

    Attributes:
        origin: side that the queries are of.
        queries: (n, dim) or (n, K, dim) float32.
        own: (n,) rows that do not count, those of the queries themselves; -1 for none.
        limits: (n,) float64, scores of the last of the nearest items.
        k: how many are nearest.
    """

    origin: IndexedSide
    queries: Tensor
    own: Tensor
    limits: Tensor
    k: int


def least_effort(
    side: Side, factory: str, others: list[Side], lowest: int, highest: int
) -> ApproximationInfo:
    """Return the least effort, doubled from the lowest, with a recall at 10 of `WANTED`; else the
    highest.

    `side` has its faiss index in its folder. `others` are the sides that queries come from as well.
    """
    samples = [_sample(origin, side) for origin in [side, *others] if len(origin)]
    found, effort = None, lowest
    while found is None or (min(found.recall.values()) < WANTED and effort <= highest):
        with activity(f"measuring recall with {name_of_effort(factory)} {effort}"):
            found = _measured(side, factory, effort, samples)
        effort *= 2
    return found


def _measured(side: Side, factory: str, effort: int, samples: list[Sample]) -> ApproximationInfo:
    count = min(len(one.queries) for one in samples)
    info = ApproximationInfo(factory=factory, effort=effort, recall={}, queries=count)
    tried = replace(side, info=side.info.model_copy(update={"approximation": info}))
    for one in samples:
        info.recall[one.origin] = recall(tried, one)
    return info


def recall(side: Side, sample: Sample) -> float:
    """Return the share of the nearest items that the search of a side finds, over all queries."""
    similarity = Similarity(KnownLengths(side.info.longest))
    found = 0
    for query, own, limit in zip(sample.queries, sample.own, sample.limits, strict=True):
        scores, rows = nearest_rows(side, query, sample.k + 1, similarity)
        scores = scores[rows != own][: sample.k]
        found += int((scores >= limit).sum())
    return found / (sample.k * len(sample.queries))


def _sample(origin: Side, side: Side) -> Sample:
    count = max(LEAST, min(MOST, COMPARED // len(side)))
    rows = torch.from_numpy(sample(len(origin), count))
    queries = origin.vectors[rows].float()
    own = rows if origin.name == side.name else torch.full_like(rows, -1)
    k = min(K, len(side) - 1)
    return Sample(origin.name, queries, own, _limits(side, queries, own, k), k)


def _limits(side: Side, queries: Tensor, own: Tensor, k: int) -> Tensor:
    """Return the score (n,) of each query's k-th item by exact search, a chunk at a time."""
    score, best = KnownLengths(side.info.longest), torch.zeros(len(queries), 0)
    for start, items in _chunks(side):
        numbers = torch.arange(start, start + len(items))

        def removed(rows: Tensor, numbers: Tensor = numbers) -> Tensor:
            return own[rows, None] == numbers

        scores, _ = top_k(queries, items, k, score, TILE, removed)
        best = torch.cat([best, scores], 1).sort(dim=1, descending=True).values[:, :k]
    return best[:, k - 1]


def _chunks(side: Side) -> Iterator[tuple[int, Tensor]]:
    """Yield the first row and the vectors of chunks of a side, read rather than mapped."""
    each = side.embeddings_per_item
    with activity("comparing vector", len(side) * each) as compared:
        for start, chunk in VectorFile(side.vector_path).chunks(CHUNK, each):
            items = torch.from_numpy(chunk)
            yield start // each, items if each == 1 else items.unflatten(0, (-1, each))
            compared.advance(len(chunk))
