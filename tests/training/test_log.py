"""What the log makes of what it is told."""

from pathlib import Path

import pytest

from xmodal.evaluation.protocols import BETTER, OTHERS
from xmodal.training.config import StageConfig
from xmodal.training.log import COLLAPSED_LINES, TrainingLog
from xmodal.training.run import Run
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
    assert capsys.readouterr().out.count("where it began") == lines


@pytest.mark.parametrize("protocol", BETTER)
def test_an_evaluation_is_never_an_empty_line(
    protocol: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = (*BETTER[protocol], *OTHERS.get(protocol, ()))
    metrics = {f"{protocol}/{name}": 12.5 for name in names}
    with TrainingLog(Run(str(tmp_path)), first_step=0, steps=99, speaks=True) as log:
        log.evaluation(7, SPAN, metrics, None)
    assert f"evaluation at step 7: {protocol}/" in capsys.readouterr().out
