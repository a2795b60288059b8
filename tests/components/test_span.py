"""Stretches of training in steps, epochs, samples and percent."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmodal.components.config import Span


@given(st.floats(0, 1e300), st.sampled_from(["steps", "epochs", "samples", "%"]))
def test_a_span_is_the_same_when_read_back(amount: float, unit: str) -> None:
    span = Span(f"{amount!r} {unit}")
    assert Span(str(span)) == span
    assert span.amount == amount


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("500", 500),
        (500, 500),
        ("1 step", 1),
        ("2 Epochs", 20),
        ("1e3 samples", 10),
        ("5 %", 50),
        ("5%", 50),
        ("1 sample", 1),
        ("0.001 %", 1),
        ("0", 0),
        ("0 %", 0),
        ("1.26 epochs", 13),
    ],
)
def test_spans_in_steps(text: str | int, steps: int) -> None:
    span = Span(text)
    assert span.steps(batch_size=100, epoch_samples=1000, stage_steps=1000) == steps


@pytest.mark.parametrize("text", ["", "-1 steps", "steps", "1 day", "1 2", "1e999", "nan", "True"])
def test_what_is_no_span_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="number with steps"):
        Span(text)


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a stage"):
        Span("5 %").steps(batch_size=1, epoch_samples=1)
