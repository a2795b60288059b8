"""The learning rate rises in a line and falls along a cosine."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmodal.training.schedule import learning_rate_factor


def factors(*, warmup: int, total: int, final: float) -> list[float]:
    return [
        learning_rate_factor(step, warmup=warmup, total=total, final=final)
        for step in range(total + 1)
    ]


def test_values_by_hand() -> None:
    swing = 0.4 * math.cos(math.pi / 4)
    assert factors(warmup=4, total=8, final=0.2) == pytest.approx(
        [0.25, 0.5, 0.75, 1, 1, 0.6 + swing, 0.6, 0.6 - swing, 0.2]
    )
    assert factors(warmup=0, total=2, final=0) == pytest.approx([1, 0.5, 0])


@given(st.integers(0, 60), st.integers(1, 60), st.floats(0, 1))
def test_it_rises_and_then_falls_and_stays_within_bounds(
    warmup: int, total: int, final: float
) -> None:
    values = factors(warmup=warmup, total=total, final=final)
    rise, fall = values[:warmup], values[warmup:]
    assert rise == sorted(rise)
    assert fall == sorted(fall, reverse=True)
    assert all(0 < value <= 1 for value in rise)
    assert all(final - 1e-12 <= value <= 1 + 1e-12 for value in fall)
    if warmup < total:
        assert fall[0] == pytest.approx(1)
        assert fall[-1] == pytest.approx(final)


def test_past_the_end_it_stays_at_the_end() -> None:
    assert learning_rate_factor(99, warmup=1, total=9, final=0.3) == pytest.approx(0.3)
