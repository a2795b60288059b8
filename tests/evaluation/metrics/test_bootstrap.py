"""Bootstrap intervals against plain resampling of the queries."""

import numpy as np
import pytest

from xmodal.evaluation.metrics.bootstrap import LEVEL, interval


@pytest.mark.parametrize("kind", ["recall", "precision"])
def test_it_is_the_interval_of_plain_resampling(kind: str) -> None:
    rng = np.random.default_rng(1)
    values = rng.choice([-100.0, 0.0, 100.0], 300, p=[0.1, 0.7, 0.2])
    if kind == "precision":
        values = rng.normal(3, 20, 300)
    other = rng.normal(1, 5, 50)
    means = [
        rng.choice(values, len(values)).mean() + rng.choice(other, len(other)).mean()
        for _ in range(4000)
    ]
    expected = np.percentile(means, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
    spread = expected[1] - expected[0]
    assert interval([values, other]) == pytest.approx(expected, abs=0.08 * spread)


def test_the_same_differences_have_the_same_interval() -> None:
    values = np.arange(20.0)
    assert interval([values]) == interval([values])
    assert interval([np.zeros(9)]) == (0, 0)
    low, high = interval([np.full(9, 2.5)])
    assert (low, high) == (2.5, 2.5)
