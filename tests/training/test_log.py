"""What the log makes of what it is told."""

import io
import json
from pathlib import Path

import pytest

from xmodal import activity, terminal
from xmodal.errors import UserError
from xmodal.evaluation.protocols.protocol import Protocol
from xmodal.evaluation.protocols.registry import all_protocols
from xmodal.runs.run import Run
from xmodal.training.config import StageConfig
from xmodal.training.log import COLLAPSED_LINES, SUMMARY, TrainingLog
from xmodal.training.timeline import StageSpan

SPAN = StageSpan(StageConfig(), 0, 0, 99, 0)
VALUES = {"loss": 0.4, "samples_per_second": 10.0, "seconds_left": 3.0, "data_wait": 0.0}


def said_of(collapse: list[float], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    with TrainingLog(Run(str(tmp_path)), first_step=0, steps=99, speaks=True) as log:
        for step, value in enumerate(collapse):
            log.step(step, SPAN, VALUES | {"loss": 1 / (step + 1), "collapse": value})
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]


def test_a_collapse_that_lasts_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (line,) = said_of([1.0] * 3 * COLLAPSED_LINES, tmp_path, capsys)
    assert "collapsed into one point. Train with semi-hard or all negatives" in line


def test_scores_that_are_alike_at_first_are_no_collapse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = [1.0] * (COLLAPSED_LINES - 1)
    assert said_of([*begun, 0.9, *begun], tmp_path, capsys) == []


@pytest.mark.parametrize(("first_step", "lines"), [(0, 1), (7, 0)])
def test_a_loss_that_stays_where_its_stage_began_is_said(
    first_step: int, lines: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Where a run was resumed, the loss may have come a long way before.
    with TrainingLog(Run(str(tmp_path)), first_step=first_step, steps=99, speaks=True) as log:
        for step in range(first_step, first_step + 50):
            log.step(step, SPAN, VALUES)
    assert capsys.readouterr().out.count("the loss of stage main stays at") == lines


@pytest.mark.parametrize("protocol", all_protocols(), ids=lambda one: one.name)
def test_an_evaluation_is_never_an_empty_line(
    protocol: Protocol, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = (*protocol.higher_is_better, *protocol.lower_is_better)
    metrics = {f"{protocol.name}/{name}": 12.5 for name in names}
    with TrainingLog(Run(str(tmp_path)), first_step=0, steps=99, speaks=True) as log:
        log.evaluation(7, SPAN, metrics, None)
    assert f"evaluation at step 7: {protocol.name}/" in capsys.readouterr().out


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a log writes on a terminal."""
    written = io.StringIO()

    def console(**_: object) -> terminal.rich.Console:
        return terminal._Console(file=written, force_terminal=True, width=200)

    monkeypatch.setattr("xmodal.training.log.console", console)
    return written


@pytest.mark.parametrize("name", ["[/foo]", "[red]", "a/b", "..", "a b", "[", "{task}"])
def test_a_stage_may_be_called_anything(name: str, tmp_path: Path, screen: io.StringIO) -> None:
    span = StageSpan(StageConfig(name=name), 0, 0, 99, 0)
    with TrainingLog(Run(str(tmp_path)), first_step=0, steps=99, speaks=True) as log:
        log.step(1, span, VALUES)
        log.bar.refresh()
    assert f"{name} " in screen.getvalue()
    assert [row["stage"] for row in log.run.history()] == [name]


def test_on_a_terminal_the_activity_stands_before_the_bar(
    tmp_path: Path, screen: io.StringIO
) -> None:
    with TrainingLog(Run(str(tmp_path)), first_step=0, steps=99, speaks=True) as log:
        log.show_activity("main step 3/99: waiting for data [/x] (12 s)")
        log.bar.refresh()
        assert "main step 3/99: waiting for data [/x] (12 s) " in screen.getvalue()
        log.step(3, SPAN, VALUES)
        assert log.bar.tasks[0].description == "main"


def test_elsewhere_the_activity_is_a_line_after_ten_silent_seconds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = [0.0]
    heart = activity.Heartbeat(lambda: seconds[0])
    monkeypatch.setattr(activity.Heartbeat, "_beat", lambda *_: None)
    monkeypatch.setattr(activity, "_HEARTBEAT", heart)
    log = TrainingLog(Run(str(tmp_path)), first_step=0, steps=99, speaks=True)
    with log, activity.activity("main step 3/99: waiting for data"):
        seconds[0] = 9
        heart.beat()
        log.say("a line")
        for seconds[0] in (18, 19, 28, 29):
            heart.beat()
    assert capsys.readouterr().out.splitlines() == [
        "a line",
        "main step 3/99: waiting for data (19 s)",
        "main step 3/99: waiting for data (29 s)",
    ]


def test_ranks_that_do_not_speak_show_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    heart = activity.Heartbeat(iter(range(0, 10**6, 100)).__next__)
    monkeypatch.setattr(activity, "_HEARTBEAT", heart)
    log = TrainingLog(Run(str(tmp_path)), first_step=0, steps=99, speaks=False)
    with log, activity.activity("main step 3/99"):
        heart.beat()
    assert capsys.readouterr().out == ""
    assert not list(tmp_path.iterdir())


def test_a_full_disk_names_the_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with TrainingLog(Run(str(tmp_path)), first_step=0, steps=99, speaks=True) as log:
        (file,) = log.run.tensorboard.iterdir()

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(log.board, "flush", full)
            with pytest.raises(UserError, match=r"tensorboard cannot be written: No space left"):
                log.step(1, SPAN, VALUES)
    assert file.exists()
    assert json.loads(log.run.metrics.read_text())["step"] == 1


def test_a_line_shows_mfu_and_memory_and_another_one_where_the_time_went(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    costs = {
        "samples_per_second_per_device": 5.0,
        "mfu": 0.412,
        "peak_memory_gb": 38.21,
        "time/data": 0.1,
        "time/forward": 0.9,
    }
    with TrainingLog(Run(str(tmp_path)), first_step=0, steps=99, speaks=True) as log:
        for step in range(1, SUMMARY + 3):
            log.step(step, SPAN, VALUES | costs | {"loss": 1 / step})
        log.step(SPAN.end, SPAN, VALUES | costs | {"loss": 0.01})
    lines = capsys.readouterr().out.splitlines()
    assert "samples/s  (5 a device)  MFU 41%  38.2 GB  data wait 0%" in lines[0]
    said = [line for line in lines if line == "main: time by phase: data 10%, forward 90%"]
    assert len(said) == 2
    assert said[0] == lines[SUMMARY]
