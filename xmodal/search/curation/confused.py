"""Most confused pairs: images whose captions the model gives to other images."""

import numpy as np
import pyarrow as pa
import torch

from xmodal.search.curation.hardest import hardest_samples
from xmodal.search.curation.outcome import SHOWN, Figure, Outcome, Section, places
from xmodal.search.curation.sample_scores import SampleScores
from xmodal.search.searcher import Searcher


def confused(searcher: Searcher, number: int) -> Outcome:
    """Find the `number` samples whose image the model most prefers to give to captions of another
    sample: by margin, the score with these minus that with its own captions.

    Samples with a margin above 0 among them are not in the keep-list. Table `pairs`: shard,
    key, other_shard, other_key, score, other_score, margin.
    """
    scores = SampleScores(searcher)
    own = scores.own(scores.of_captions())
    blocks = [hard.to_texts for hard in hardest_samples(scores, 1)]
    best, others = (torch.cat(parts)[:, 0].numpy() for parts in zip(*blocks, strict=True))
    margin = np.where(np.isfinite(own) & np.isfinite(best), best - own, -np.inf)
    rows = np.argsort(-margin, kind="stable")[:number]
    rows = rows[np.isfinite(margin[rows])]
    kept = np.ones(len(scores), bool)
    kept[rows[margin[rows] > 0]] = False
    table = {
        **places(searcher, rows),
        **places(searcher, others[rows], "other_"),
        "score": own[rows],
        "other_score": best[rows],
        "margin": margin[rows],
    }
    return Outcome(
        numbers={
            "samples": f"{len(scores):,}",
            "images nearer to captions of another": f"{(margin > 0).sum():,}",
            "kept": f"{kept.sum():,}",
            "removed": f"{(~kept).sum():,}",
        },
        kept=kept,
        tables={"pairs": pa.table(table)},
        sections=[
            Section(
                f"margin {margin[row]:.3f}",
                [
                    Figure(searcher, int(row), f"its own {own[row]:.3f}"),
                    Figure(searcher, int(others[row]), f"taken for {best[row]:.3f}"),
                ],
            )
            for row in rows[:SHOWN]
        ],
        shown=f"{min(SHOWN, len(rows)):,} of {len(rows):,} pairs",
    )
