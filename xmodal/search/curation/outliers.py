"""Outliers: images that are far from all others."""

import numpy as np
import pyarrow as pa
import torch

from xmodal.search.curation.nearest import nearest_in_blocks, others
from xmodal.search.curation.outcome import Figure, Outcome, Section, places
from xmodal.search.searcher import Searcher

NORMAL = 1.4826  # standard deviations of a normal distribution are so many median deviations
FIGURES = 60


def outliers(searcher: Searcher, neighbours: int, deviations: float, drop: float | None) -> Outcome:
    """Find images that are far from their nearest `neighbours`: by distance, 1 minus the mean
    similarity with them.

    Removed is what lies more than so many robust standard `deviations` (of the median deviation)
    above the median distance; or the share `drop` of the images. Table `distances`: shard, key,
    distance.
    """
    images = searcher.sides["images"]
    blocks = nearest_in_blocks(images.vectors, images, neighbours, "comparing embeddings", others)
    near = torch.cat([block.scores for block in blocks]).double()
    distance = 1 - near.masked_fill(near.isinf(), torch.nan).nanmean(1).numpy()
    order = np.argsort(-distance, kind="stable")
    limit = _limit(distance, deviations) if drop is None else _share(distance[order], drop)
    kept = ~(distance > limit)
    rows = np.arange(len(distance))
    return Outcome(
        numbers={
            "images": f"{len(kept):,}",
            "median distance": f"{np.median(distance):.4f}" if len(kept) else "none",
            "greatest distance kept": f"{limit:.4f}",
            "kept": f"{kept.sum():,}",
            "removed": f"{(~kept).sum():,}",
        },
        kept=kept,
        tables={"distances": pa.table({**places(searcher, rows), "distance": distance})},
        sections=_sections(searcher, distance, order, kept),
        shown="the images that are farthest from others",
    )


def _limit(distance: np.ndarray, deviations: float) -> float:
    median = np.median(distance)
    return float(median + deviations * NORMAL * np.median(np.abs(distance - median)))


def _share(farthest: np.ndarray, drop: float) -> float:
    """Return the greatest distance that is kept where a share is removed."""
    return float(farthest[min(len(farthest) - 1, int(drop * len(farthest)))])


def _sections(
    searcher: Searcher, distance: np.ndarray, order: np.ndarray, kept: np.ndarray
) -> list[Section]:
    groups = {"Removed": order[~kept[order]], "Kept last": order[kept[order]]}
    return [
        Section(name, [Figure(searcher, int(r), f"{distance[r]:.3f}") for r in rows[:FIGURES]])
        for name, rows in groups.items()
        if len(rows)
    ]
