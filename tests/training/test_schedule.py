"""Learning rates and weights of losses over a stage."""

import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmodal.training.config import AdamWConfig, LossConfig, ScheduleConfig, StageConfig
from xmodal.training.schedule import learning_rate_factor, loss_weight
from xmodal.training.timeline import StageSpan
from xmodal.training.trainer import Trainer


def factors(*, warmup: int, total: int, final: float) -> list[float]:
    return [
        learning_rate_factor(ScheduleConfig(final=final), step, warmup=warmup, total=total)
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
    schedule = ScheduleConfig(final=0.3)
    assert learning_rate_factor(schedule, 99, warmup=1, total=9) == pytest.approx(0.3)


def test_a_constant_stays_and_a_stair_falls() -> None:
    constant = ScheduleConfig(kind="constant")
    rates = [learning_rate_factor(constant, step, warmup=2, total=5) for step in range(5)]
    assert rates == [0.5, 1, 1, 1, 1]
    stair = ScheduleConfig(kind="steps", at=("3 steps", "80 %"), factor=0.1)
    rates = [
        learning_rate_factor(stair, step, warmup=0, total=5, falls=[3, 4]) for step in range(6)
    ]
    assert rates == pytest.approx([1, 1, 1, 0.1, 0.01, 0.01])


def test_some_parts_keep_the_rate_that_others_lose() -> None:
    groups = [{"factor": 1.0, "constant": False}, {"factor": 2.0, "constant": True}]
    trainer = SimpleNamespace(
        progress=SimpleNamespace(step=17), timeline=SimpleNamespace(steps=lambda *_: 0)
    )
    stage = StageConfig(optimizer=AdamWConfig(lr=0.1), schedule=ScheduleConfig(kind="cosine"))
    span = StageSpan(stage, number=1, start=12, end=22, origin=0)
    engine = SimpleNamespace(optimizer=SimpleNamespace(param_groups=groups))
    rate = Trainer._set_learning_rate(trainer, engine, span)
    assert [rate, *(group["lr"] for group in groups)] == pytest.approx([0.05, 0.05, 0.2])


def test_weights_rise_as_their_ramps_say() -> None:
    progress = (0.0, 0.25, 1.0)
    weights = {
        ramp: [loss_weight(LossConfig(weight=2, ramp=ramp), p) for p in progress]
        for ramp in ("none", "linear", "adversarial")
    }
    assert weights["none"] == [2, 2, 2]
    assert weights["linear"] == [0, 0.5, 2]
    assert weights["adversarial"] == pytest.approx(
        [2 * (2 / (1 + math.exp(-10 * p)) - 1) for p in progress]
    )
