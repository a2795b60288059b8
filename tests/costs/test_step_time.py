"""Time of a step, by hand."""

import pytest

from xmodal.costs.step_time import StepTime, step_time


def time(**changes: object) -> StepTime:
    given = {
        "flops": 30.0,
        "rate": 10.0,
        "gradients": 4.0,
        "other": 2.0,
        "link": 2.0,
        "overlaps": False,
    }
    return step_time(**(given | changes))  # type: ignore[arg-type]


def test_computing_and_communication_follow_each_other() -> None:
    assert time().total == 3 + 3
    assert time().bottleneck == "communication" or time().bottleneck == "computing"


def test_gradients_are_hidden_behind_the_backward_pass() -> None:
    assert time(overlaps=True).total == pytest.approx(3 + 1)
    assert time(overlaps=True, gradients=400).total == pytest.approx(3 + 201 - 2)
    assert time(overlaps=True).bottleneck == "computing"
    assert time(gradients=400).bottleneck == "communication"


def test_launching_runs_beside_computing_and_the_optimiser_after_both() -> None:
    assert time(launching=2.0, optimizer=0.5).total == 3 + 0.5 + 3
    slow = time(launching=7.0, optimizer=0.5)
    assert slow.total == 7 + 0.5 + 3
    assert slow.bottleneck == "launching of kernels"


def test_loading_runs_beside_the_gpus() -> None:
    assert time(decoding=5.0).total == 6
    slow = time(decoding=7.0, reading=9.0)
    assert slow.total == 9
    assert slow.bottleneck == "reading of shards"
