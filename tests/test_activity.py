"""Lines about what a command does, by a clock that the tests set."""

import threading

import pytest

from xmodal.activity import SECONDS_OF_SILENCE, Heartbeat


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def heart(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Heartbeat:
    """A heartbeat whose beats are those of the test alone."""
    monkeypatch.setattr(Heartbeat, "_beat", lambda *_: None)
    return Heartbeat(clock)


def test_silence_is_broken_every_ten_seconds(heart: Heartbeat, clock: Clock) -> None:
    lines: list[str] = []
    with heart.reporting(lines.append), heart.activity("evaluating"):
        for second in range(35):
            clock.now = second
            heart.beat()
    assert lines == ["evaluating (10 s)", "evaluating (20 s)", "evaluating (30 s)"]


def test_other_lines_are_no_silence(heart: Heartbeat, clock: Clock) -> None:
    lines: list[str] = []
    with heart.reporting(lines.append), heart.activity("training"):
        for second in range(100):
            clock.now = second
            heart.beat()
            if second % 9 == 0:
                heart.printed()
    assert lines == []


def test_activities_nest_and_count(heart: Heartbeat, clock: Clock) -> None:
    lines: list[str] = []
    with heart.reporting(lines.append), heart.activity("evaluation at step 50"):
        clock.now = 4
        with heart.activity("embedding images", total=5000) as images:
            images.advance(1200)
            images.advance()
            clock.now += SECONDS_OF_SILENCE
            heart.beat()
        clock.now += SECONDS_OF_SILENCE
        heart.beat()
    assert lines == [
        "evaluation at step 50: embedding images 1,201 of 5,000 (10 s)",
        "evaluation at step 50 (24 s)",
    ]


def test_an_activity_describes_its_present_state(heart: Heartbeat, clock: Clock) -> None:
    lines: list[str] = []
    steps = 3
    with heart.reporting(lines.append), heart.activity(lambda: f"step {steps}"):
        steps, clock.now = 7, SECONDS_OF_SILENCE
        heart.beat()
    assert lines == ["step 7 (10 s)"]


def test_the_inner_reporter_takes_the_outers_place_and_gives_it_back(
    heart: Heartbeat, clock: Clock
) -> None:
    outer: list[str] = []
    inner: list[str] = []
    with heart.reporting(outer.append), heart.activity("run"):
        with heart.reporting(inner.append):
            clock.now += SECONDS_OF_SILENCE
            heart.beat()
        clock.now += SECONDS_OF_SILENCE
        heart.beat()
    clock.now += SECONDS_OF_SILENCE
    heart.beat()
    assert (inner, outer) == (["run (10 s)"], ["run (20 s)"])


def test_what_failed_is_no_longer_done(heart: Heartbeat) -> None:
    with pytest.raises(ValueError, match="broken"), heart.activity("reading"):
        raise ValueError("broken")
    assert heart.activities == []


def test_the_thread_shows_it_and_ends_with_the_block() -> None:
    shown = threading.Event()
    heart = Heartbeat(clock=iter(range(0, 10**9, SECONDS_OF_SILENCE)).__next__)
    with heart.reporting(lambda _: shown.set()), heart.activity("training"):
        (thread,) = [one for one in threading.enumerate() if one.name == "heartbeat"]
        assert shown.wait(60)
    thread.join(60)
    assert not thread.is_alive()
