"""Pairs of images that show the same, in one set or between two: what makes a near duplicate.

Rule `pictures`: of each image's 10 nearest neighbours by embedding, those are candidates whose
similarity is two standard deviations above that of random pairs, or 0.7; a candidate is confirmed
where the small grey pictures of both correlate by 0.88 or more (`xmodal.search.curation.pictures`).
Rule `embeddings`: the similarity of the embeddings reaches a threshold; no image is read.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from xmodal.activity import activity
from xmodal.methods.scores import dot_product
from xmodal.search.curation.nearest import nearest_in_blocks, others
from xmodal.search.curation.pictures import PAIRS, GreyPictures, correlations
from xmodal.search.index_folder import Side
from xmodal.search.searcher import Searcher

NEIGHBOURS = 10
CORRELATION = 0.88  # on Flickr8k copies reach 0.927 and more, other images 0.840 and less
DEVIATIONS = 2  # above random pairs
ENOUGH = 0.7  # of a candidate, where random pairs are that similar: many are copies
SAMPLE = 1000  # images of either set, whose pairs are the random ones


@dataclass(frozen=True)
class Rule:
    """Name of a rule, and its threshold of similarity: None where it is found from the data."""

    name: Literal["pictures", "embeddings"] = "pictures"
    similarity: float | None = None
    correlation: float = CORRELATION


@dataclass(frozen=True)
class Pairs:
    """Pairs of rows of images, (n,) each; sorted.

    `correlation` is NaN where no images were compared.
    """

    first: np.ndarray
    second: np.ndarray
    similarity: np.ndarray
    correlation: np.ndarray
    mirrored: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    def where(self, chosen: np.ndarray) -> "Pairs":
        """Return some of the pairs."""
        return Pairs(*(values[chosen] for values in vars(self).values()))


@dataclass(frozen=True)
class Alike:
    """Pairs that a rule has found, and what it compared."""

    pairs: Pairs
    lowest_similarity: float
    candidates: int
    unreadable: int  # images of candidates


def find_alike(first: Searcher, second: Searcher | None, rule: Rule, work: Path) -> Alike:
    """Find pairs of images of `first` and `second`, or within `first` where `second` is None.

    Small pictures are written into the folder `work`.
    """
    queries, gallery = (one.sides["images"] for one in (first, second or first))
    lowest = rule.similarity
    if lowest is None:
        lowest = background(queries.vectors, gallery.vectors)
    candidates = _candidates(queries.vectors, gallery, lowest, second is None)
    if rule.name == "embeddings":
        return Alike(candidates, lowest, len(candidates), 0)
    greys = [GreyPictures(first, work / "first.npy")]
    greys += [] if second is None else [GreyPictures(second, work / "second.npy")]
    compared = _compared(candidates, greys[0], greys[-1])
    confirmed = compared.where(compared.correlation >= rule.correlation)
    return Alike(confirmed, lowest, len(candidates), sum(one.unreadable for one in greys))


def background(queries: Tensor, gallery: Tensor) -> float:
    """Return the similarity two standard deviations above that of random pairs, at most 0.7."""
    a, b = (side[:: -(-len(side) // SAMPLE) or 1].float() for side in (queries, gallery))
    scores = dot_product(a, b)
    if queries is gallery:
        scores = scores[~torch.eye(len(scores), dtype=torch.bool)]
    if scores.numel() < 2:
        return ENOUGH
    return min(ENOUGH, float(scores.mean() + DEVIATIONS * scores.std()))


def _candidates(queries: Tensor, gallery: Side, lowest: float, within: bool) -> Pairs:
    choice = others if within else None
    blocks = nearest_in_blocks(queries, gallery, NEIGHBOURS, "comparing embeddings", choice)
    found = [torch.stack(_as_double(block.pairs(lowest))) for block in blocks]
    i, j, scores = torch.cat([torch.empty(3, 0, dtype=torch.float64), *found], 1).numpy()
    if within:  # each pair once
        i, j = np.minimum(i, j), np.maximum(i, j)
    order = np.lexsort((j, i))
    i, j, scores = i[order].astype(np.int64), j[order].astype(np.int64), scores[order]
    new = np.ones(len(i), bool)
    new[1:] = (i[1:] != i[:-1]) | (j[1:] != j[:-1])
    pairs = Pairs(i, j, scores, np.full(len(i), np.nan), np.zeros(len(i), bool))
    return pairs.where(new)


def _as_double(columns: tuple[Tensor, ...]) -> list[Tensor]:
    return [column.double() for column in columns]  # which holds rows up to 2^53 exactly


def _compared(pairs: Pairs, first: GreyPictures, second: GreyPictures) -> Pairs:
    """Return candidates with the correlations of their small pictures."""
    if first is second:
        first.load(np.union1d(pairs.first, pairs.second))
    else:
        first.load(np.unique(pairs.first))
        second.load(np.unique(pairs.second))
    with activity("comparing images", len(pairs)) as done:
        for places in _blocks(len(pairs)):
            pictures = first.pixels[pairs.first[places]], second.pixels[pairs.second[places]]
            pairs.correlation[places], pairs.mirrored[places] = correlations(*pictures)
            done.advance(PAIRS)
    return pairs


def _blocks(length: int) -> Iterator[slice]:
    return (slice(start, start + PAIRS) for start in range(0, length, PAIRS))
