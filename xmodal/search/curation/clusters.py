"""Clusters of images by k-means, with a contact sheet, and weights that even them out."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from torch import Tensor

from xmodal.activity import activity
from xmodal.errors import UserError
from xmodal.search.curation.outcome import Figure, Outcome, Section, places
from xmodal.search.searcher import Searcher

POINTS = 256  # images a cluster that k-means is trained on, as faiss advises
ROUNDS = 20
BEGINNINGS = 5  # of which the best clusters count
SEED = 0
BLOCK = 65536  # images that are assigned at a time
FIGURES = 6  # of a cluster, on the contact sheet
SHEETS = 100  # clusters on it
MOST_WEIGHT = 100.0


def clusters(searcher: Searcher, number: int) -> Outcome:
    """Cluster the embeddings of images by spherical k-means into `number` clusters.

    The keep-list has all samples, with weights by which each cluster is seen equally often in an
    epoch of the same length; no sample has more than 100 times the weight of one of a cluster of
    mean size. Table `clusters`: shard, key, cluster, and the
    similarity to its centre. Clusters are numbered by size, the largest first.
    """
    vectors = searcher.sides["images"].vectors
    if not 1 <= number <= len(vectors):
        raise UserError(f"--number {number}: there are {len(vectors):,} images to cluster")
    with activity("k-means"):
        centres = _centres(vectors, number)
    labels, similarity = _assigned(vectors, centres)
    labels = _by_size(labels, number)
    sizes = np.bincount(labels, minlength=number)
    weights = np.minimum(len(labels) / (np.count_nonzero(sizes) * sizes[labels]), MOST_WEIGHT)
    weights /= weights.mean()
    rows = np.arange(len(labels))
    table = {**places(searcher, rows), "cluster": labels, "similarity": similarity}
    return Outcome(
        numbers={
            "images": f"{len(labels):,}",
            "clusters": f"{np.count_nonzero(sizes):,}",
            "largest": f"{sizes[0]:,}",
            "median": f"{np.median(sizes[sizes > 0]):,.0f}",
            "smallest": f"{sizes[sizes > 0].min():,}",
            "mean similarity to the centre": f"{similarity.mean():.4f}",
        },
        kept=np.ones(len(labels), bool),
        weights=weights,
        tables={"clusters": pa.table(table)},
        sections=list(_sections(searcher, labels, similarity, sizes)),
        shown=f"of the largest {SHEETS} clusters the images nearest to their centres",
    )


def _centres(vectors: Tensor, number: int) -> np.ndarray:
    """Return the centres (clusters, dim) of an evenly spaced sample of the images."""
    import faiss

    step = max(1, len(vectors) // (number * POINTS))
    sample = _flat(vectors[::step][: number * POINTS])
    kmeans = faiss.Kmeans(
        sample.shape[1],
        number,
        niter=ROUNDS,
        nredo=BEGINNINGS,
        seed=SEED,
        spherical=True,
        min_points_per_centroid=1,
        max_points_per_centroid=POINTS,
    )
    kmeans.train(sample)
    return np.asarray(kmeans.centroids)


def _assigned(vectors: Tensor, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest centre of each image, and the similarity to it, (rows,)."""
    labels, similarity = np.empty(len(vectors), np.int64), np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), BLOCK):
        scores = _flat(vectors[start : start + BLOCK]) @ centres.T
        block = slice(start, start + len(scores))
        labels[block] = scores.argmax(1)
        similarity[block] = scores.max(1)
    return labels, similarity


def _flat(vectors: Tensor) -> np.ndarray:
    """Return one vector of length 1 an image, (n, dim) float32: of K embeddings their mean."""
    mean = vectors.float() if vectors.ndim == 2 else vectors.float().mean(1)
    flat: np.ndarray = (mean / mean.norm(dim=1, keepdim=True).clamp(min=1e-12)).numpy()
    return flat


def _by_size(labels: np.ndarray, number: int) -> np.ndarray:
    order = np.argsort(-np.bincount(labels, minlength=number), kind="stable")
    places_of = np.empty(number, np.int64)
    places_of[order] = np.arange(number)
    renamed: np.ndarray = places_of[labels]
    return renamed


def _sections(
    searcher: Searcher, labels: np.ndarray, similarity: np.ndarray, sizes: np.ndarray
) -> Iterator[Section]:
    order = np.lexsort((-similarity, labels))
    starts = np.concatenate([[0], np.cumsum(sizes)])
    for number in np.flatnonzero(sizes)[:SHEETS].tolist():
        rows = order[starts[number] : starts[number + 1]][:FIGURES]
        figures = [Figure(searcher, int(r), f"{similarity[r]:.3f}") for r in rows]
        yield Section(f"Cluster {number}: {sizes[number]:,} images", figures)
