"""Bootstrap intervals of differences between two evaluations, paired over queries."""

from collections.abc import Sequence

import numpy as np

RESAMPLES = 2000
LEVEL = 95  # percent of the resamples that an interval holds
_CELLS = 1 << 22  # numbers that are in memory at a time


def interval(differences: Sequence[np.ndarray], seed: int = 0) -> tuple[float, float]:
    """Return the percentile interval of a sum of means (Efron and Tibshirani 1993, chapter 13).

    Args:
        differences: of each term, the queries' differences, (queries,); terms have queries of their
            own, which are drawn by themselves.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    totals = sum(_resampled_means(values, rng) for values in differences)
    low, high = np.percentile(totals, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    return float(low), float(high)


def _resampled_means(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return means (resamples,) of as many values as there are, drawn with replacement."""
    # Equal values are drawn together: how often is multinomial.
    distinct, counts = np.unique(values, return_counts=True)
    at_once = max(1, _CELLS // len(distinct))
    parts = [
        rng.multinomial(len(values), counts / len(values), min(at_once, RESAMPLES - start))
        @ distinct
        for start in range(0, RESAMPLES, at_once)
    ]
    return np.concatenate(parts) / len(values)
