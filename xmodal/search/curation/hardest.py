"""Hardest false samples: those that a model scores highest among the ones that are not relevant."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from xmodal.activity import tracked
from xmodal.search.curation.nearest import BestSoFar
from xmodal.search.curation.sample_scores import SampleScores

BLOCK = 512  # samples whose hardest are searched at a time
TILE = 2048  # samples that they are compared with at a time


@dataclass(frozen=True)
class Hardest:
    """The hardest false samples of some samples, hardest first: scores and rows, (samples, k).

    `to_texts` are of samples whose captions the image is taken for, `to_images` of samples whose
    images the captions are taken for. Scores are -inf where fewer than k samples count.
    """

    samples: range
    to_texts: tuple[Tensor, Tensor]
    to_images: tuple[Tensor, Tensor]


def hardest_samples(
    scores: SampleScores, k: int, limits: np.ndarray | None = None
) -> Iterator[Hardest]:
    """Yield the k hardest false samples of blocks of samples; `limits` (samples,) are the greatest
    scores that count for each.
    """
    total = len(scores)
    blocks = [range(start, min(start + BLOCK, total)) for start in range(0, total, BLOCK)]
    for rows in tracked(blocks, "comparing samples: block"):
        best = BestSoFar(len(rows), k), BestSoFar(len(rows), k)
        limit = None if limits is None else torch.from_numpy(limits[rows.start : rows.stop, None])
        for start in range(0, total, TILE):
            columns = range(start, min(start + TILE, total))
            relevant = scores.is_relevant(rows, columns)
            for found, side in zip(best, scores.tile(rows, columns), strict=True):
                gone = relevant if limit is None else relevant | (side > limit)
                found.add(side.masked_fill(gone, -torch.inf), torch.arange(start, columns.stop))
        yield Hardest(rows, best[0].sorted(), best[1].sorted())
