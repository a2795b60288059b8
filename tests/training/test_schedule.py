"""Learning rates and weights of losses over a stage."""

import math
import warnings
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from xmodal.components.config import Span
from xmodal.errors import RenamedKeyWarning
from xmodal.training.config import LossConfig, StageConfig
from xmodal.training.engine import set_learning_rate
from xmodal.training.loss_weights import loss_weight
from xmodal.training.optimizers.adamw import AdamWConfig
from xmodal.training.schedules.constant import Constant
from xmodal.training.schedules.cosine import Cosine, CosineConfig
from xmodal.training.schedules.steps import Steps, StepsConfig
from xmodal.training.schedules.warmup_stable_decay import (
    WarmupStableDecay,
    WarmupStableDecayConfig,
)
from xmodal.training.timeline import StageSpan


def factors(*, warmup: int, total: int, final: float) -> list[float]:
    schedule = Cosine(warmup=warmup, min_lr_ratio=final)
    return [schedule.factor(step, total) for step in range(total + 1)]


def read(**schedule: Any) -> Any:
    return StageConfig.model_validate({"schedule": schedule}).schedule


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
    assert Cosine(warmup=1, min_lr_ratio=0.3).factor(99, 9) == pytest.approx(0.3)


def test_a_constant_stays_and_a_stair_falls() -> None:
    constant = Constant(warmup=2)
    assert [constant.factor(step, 5) for step in range(5)] == [0.5, 1, 1, 1, 1]
    config = read(kind="steps", milestones=["3 steps", "80 %"], gamma=0.1, warmup=0)
    stair = config.build(lambda span: span.steps(batch_size=1, epoch_samples=9, stage_steps=5))
    assert isinstance(stair, Steps)
    rates = [stair.factor(step, 5) for step in range(6)]
    assert rates == pytest.approx([1, 1, 1, 0.1, 0.01, 0.01])


def test_a_plateau_ends_in_a_cool_down() -> None:
    steps_of = partial(Span.steps, batch_size=1, epoch_samples=9, stage_steps=10)
    config = read(kind="warmup_stable_decay", warmup="2 steps", cooldown="40 %", min_lr_ratio=0.2)
    plateau = [0.5, 1, 1, 1, 1, 1]
    falls = {
        "linear": [1, 0.8, 0.6, 0.4, 0.2, 0.2],
        "1-sqrt": [1, 0.6, 1 - 0.8 * math.sqrt(0.5), 1 - 0.8 * math.sqrt(0.75), 0.2, 0.2],
    }
    for shape, fall in falls.items():
        schedule = config.model_copy(update={"shape": shape}).build(steps_of)
        rates = [schedule.factor(step, 10) for step in range(12)]
        assert rates == pytest.approx(plateau + fall)
    assert WarmupStableDecay().factor(3, 5) == 1
    assert list(config.advice(10, steps_of, "stages.0.schedule")) == []
    long = WarmupStableDecayConfig(warmup=Span("70 %"), cooldown=Span("40 %"))
    (line,) = long.advice(10, steps_of, "stages.0.schedule")
    assert line.endswith("so the cool-down is cut; use stages.0.schedule.cooldown='20 %'")


OF_BEFORE = {"warmup": "5 %", "final": 0.0, "at": [], "factor": 0.1, "constant": []}


def test_a_schedule_of_before_has_keys_of_all_kinds() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RenamedKeyWarning)
        cosine = read(**OF_BEFORE, kind="cosine")
        steps = read(**OF_BEFORE | {"at": ["50 %"]}, kind="steps")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(**OF_BEFORE, kind="constant").kind == "constant"
    assert cosine == CosineConfig()
    assert steps == StepsConfig(milestones=(Span("50 %"),))


def test_old_keys_are_warned_about_and_those_of_other_kinds_mean_nothing() -> None:
    with pytest.warns(RenamedKeyWarning, match="the key final is now called min_lr_ratio"):
        assert read(final=0.5).min_lr_ratio == 0.5
    with pytest.warns(RenamedKeyWarning, match="final has no effect on a schedule of kind cons"):
        read(kind="constant", final=0.5)
    for wrong in ({"at": ["50 %"]}, {"milestones": ["50 %"]}, {"kind": "steps"}):
        with pytest.raises(ValidationError):
            read(**wrong)


def test_some_parts_keep_the_rate_that_others_lose() -> None:
    groups = [{"factor": 1.0, "constant": False}, {"factor": 2.0, "constant": True}]
    timeline = SimpleNamespace(steps=lambda *_: 0)
    stage = StageConfig(optimizer=AdamWConfig(lr=0.1), schedule=CosineConfig())
    span = StageSpan(stage, number=1, start=12, end=22, origin=0)
    engine = SimpleNamespace(optimizer=SimpleNamespace(param_groups=groups))
    rate = set_learning_rate(engine, span, 17, timeline)
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
