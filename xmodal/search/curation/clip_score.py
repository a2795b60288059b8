"""CLIP-score: how well each image and its captions go together (Hessel et al. 2021, eq. 1).

The score is the similarity of the model's embeddings, without the factor of the paper.
"""

import math

import numpy as np
import pyarrow as pa

from xmodal.search.curation.outcome import Figure, Outcome, Section
from xmodal.search.curation.sample_scores import SampleScores
from xmodal.search.searcher import Searcher

FIGURES = 24  # of a section


def clip_score(searcher: Searcher, threshold: float | None, best: float | None) -> Outcome:
    """Score every pair; keep the samples whose best caption scores at least `threshold`, or the
    share `best` of the samples.

    Table `scores`: a row for each caption: shard, key, caption, score.
    """
    scores = SampleScores(searcher)
    of_captions = scores.of_captions()
    own = scores.own(of_captions)
    order = np.argsort(-own, kind="stable")  # of equal ones the first
    kept = np.zeros(len(own), bool)
    if threshold is None:
        kept[order[: math.ceil((best or 0) * len(own))]] = True
    else:
        kept = own >= threshold
    captions = scores.captions.select(["shard", "key", "caption"])
    least = f"{own[kept].min():.4f}" if kept.any() else "none"
    return Outcome(
        numbers={
            "pairs": f"{len(of_captions):,}",
            "samples": f"{len(own):,}",
            **_quantiles(own),
            "least score kept": least,
            "kept": f"{kept.sum():,}",
            "removed": f"{(~kept).sum():,}",
        },
        kept=kept,
        tables={"scores": captions.append_column("score", pa.array(of_captions))},
        sections=_sections(searcher, own, order, int(kept.sum())),
        shown="the lowest scores, those beside the threshold, and the highest",
    )


def _quantiles(own: np.ndarray) -> dict[str, str]:
    finite = own[np.isfinite(own)]
    if not len(finite):
        return {}
    shares = {"1 %": 0.01, "10 %": 0.1, "median": 0.5, "90 %": 0.9, "99 %": 0.99}
    return {f"score, {name}": f"{np.quantile(finite, at):.4f}" for name, at in shares.items()}


def _sections(searcher: Searcher, own: np.ndarray, order: np.ndarray, kept: int) -> list[Section]:
    groups = {
        "Lowest": order[::-1][:FIGURES],
        "Removed last": order[kept : kept + FIGURES],
        "Kept last": order[max(0, kept - FIGURES) : kept][::-1],
        "Highest": order[:FIGURES],
    }
    return [
        Section(name, [Figure(searcher, int(row), f"{own[row]:.3f}") for row in rows])
        for name, rows in groups.items()
        if len(rows)
    ]
