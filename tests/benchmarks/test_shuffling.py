"""The study of the order looks at the order that is trained on, and its figures are right."""

import numpy as np
import pytest

from benchmarks.shuffling import BATCH, buffered, figures, order, perfect
from xmodal.data.plan import Plan


@pytest.mark.parametrize("epoch", [0, 1])
def test_the_order_is_the_plans(epoch: int) -> None:
    plan = Plan([30, 7, 41], seed=3, lanes=6, window=4)
    start = epoch * plan.num_samples
    expected = [plan.sample_at(start + place) for place in range(plan.num_samples)]
    assert order(plan, epoch).tolist() == expected


def test_a_perfect_shuffle_is_known() -> None:
    found = figures(perfect(100_000), 1000)
    assert found.travel == pytest.approx(1 / 3, abs=0.005)
    assert found.travel_least == pytest.approx(1 - 0.95**0.5, abs=0.002)
    assert found.travel_most == pytest.approx(1 - 0.05**0.5, abs=0.005)
    assert found.shards == pytest.approx(100 * (1 - 0.99**BATCH), abs=0.5)
    assert found.same_batch == pytest.approx(BATCH / 100_000, rel=0.2)
    assert found.chi_square == pytest.approx(1, abs=0.05)


def test_no_shuffle_at_all_shows() -> None:
    both = np.arange(51_200), np.arange(51_200)
    found = figures(both, 512)
    assert (found.travel, found.shards, found.near_batches) == (0, 1, 1)
    assert found.same_batch == pytest.approx(510 / 511)
    assert found.classes == 1


def test_readers_share_out_all_samples() -> None:
    found = buffered(16, 500, 4, 0)
    assert sorted(found.tolist()) == list(range(8000))
