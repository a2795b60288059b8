"""How far a run is: faults are named up to a bound, the best evaluation is remembered."""

import json
from dataclasses import asdict

import pytest

from xmodal.data.batch import Fault
from xmodal.errors import UserError
from xmodal.runs.progress import NAMED_FAULTS, Progress, Stopwatch, find_metric

METRICS = {"val/image_to_text/recall@1": 1.0, "val/text_to_image/recall@1": 2.0, "val/rsum": 3.0}


def faults(count: int, cause: str = "jpg is empty") -> list[Fault]:
    return [Fault("s.tar", f"{number}", cause) for number in range(count)]


@pytest.mark.parametrize("portion", [1, 7, 20, 100])
def test_faults_are_named_up_to_a_bound_and_all_counted(portion: int) -> None:
    progress, lines = Progress(), []
    for _ in range(0, 100, portion):
        lines += progress.count(faults(portion))
    named = [line for line in lines if line.startswith("bad sample")]
    assert len(named) == NAMED_FAULTS
    assert named[0] == "bad sample, a neighbour takes its place: s.tar, 0: jpg is empty"
    assert lines[NAMED_FAULTS:] == ["further bad samples are counted (bad_samples) but not named"]
    assert progress.faults == portion * -(-100 // portion)


def test_faults_are_counted_by_cause() -> None:
    progress = Progress()
    progress.count([*faults(2), *faults(3, "caption is empty"), *faults(1)])
    assert progress.causes() == "jpg is empty: 3, caption is empty: 3"
    assert progress.faults == 6


def test_the_best_evaluation_is_the_first_of_the_highest() -> None:
    progress = Progress()
    for step, value, improves in [(1, 5.0, True), (2, 4.0, False), (3, 5.0, False), (4, 6.0, True)]:
        progress.step = step
        assert progress.improves({"val/rsum": value}, "rsum") is improves
    assert (progress.best, progress.best_step) == (6.0, 4)
    assert not progress.improves({}, "rsum")


def test_zero_is_a_best_too() -> None:
    progress = Progress(step=1)
    assert progress.improves({"val/rsum": 0.0}, "rsum")
    progress.step = 2
    assert not progress.improves({"val/rsum": 0.0}, "rsum")


def test_progress_survives_json() -> None:
    progress = Progress(step=7)
    progress.count(faults(3))
    progress.improves(METRICS, "rsum")
    assert Progress(**json.loads(json.dumps(asdict(progress)))) == progress


def test_a_metric_is_found_with_or_without_its_protocol() -> None:
    assert find_metric(METRICS, "val/text_to_image/recall@1") == 2
    assert find_metric(METRICS, "text_to_image/recall@1") == 2
    assert find_metric(METRICS, "rsum") == 3
    for wrong in ("sum", "to_image/recall@1", "text_to_image"):
        with pytest.raises(UserError, match=rf"unknown metric {wrong}.*; known metrics: val/image"):
            find_metric(METRICS, wrong)


def test_a_stopwatch_counts_what_is_training(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    watch = Stopwatch(batch_size=8)
    for _ in range(2):
        with watch.waiting():
            now += 1
        now += 3
        watch.step_done()
    now += 1000  # an evaluation
    watch.resume()
    assert watch.lap(steps_left=10) == {
        "samples_per_second": 2.0,
        "data_wait": 0.25,
        "seconds_left": 40.0,
    }
    now += 2
    watch.step_done()
    lap = watch.lap(steps_left=1)
    assert (lap["samples_per_second"], lap["data_wait"]) == (4.0, 0.0)
    assert lap["seconds_left"] == pytest.approx(0.7 * 4 + 0.3 * 2)
