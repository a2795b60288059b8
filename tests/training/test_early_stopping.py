"""When a run has nothing more to gain."""

import pytest

from xmodal.errors import UserError
from xmodal.runs.progress import Progress
from xmodal.training.config import EarlyStoppingConfig
from xmodal.training.early_stopping import ended_early, watch


def stopped_at(values: list[float], **config: float) -> int | None:
    """Return the evaluation, from 1, after which a run is stopped."""
    progress = Progress()
    for progress.step, value in enumerate(values, 1):
        metrics = {"caption/rsum": value, "caption/loss": 0.0}
        watch(progress, metrics, EarlyStoppingConfig.model_validate(config), "rsum", 9)
        if progress.stopped:
            return progress.step
    return None


@pytest.mark.parametrize(
    ("values", "config", "step"),
    [
        ([1, 2, 3, 4], {"patience": 1}, None),
        ([1, 1], {"patience": 1}, 2),
        ([3, 2, 2.9, 3.1, 3, 3.1], {"patience": 3}, None),
        ([3, 2, 2.9, 3.1, 3, 3.1, 3.1], {"patience": 3}, 7),
        # A gain is counted from the best value that was one.
        ([1, 1.4, 1.8, 2.2], {"patience": 2, "min_gain": 0.5}, None),
        ([1, 1.2, 1.4, 1.6], {"patience": 2, "min_gain": 0.5}, 3),
    ],
)
def test_it_waits_for_a_gain(
    values: list[float], config: dict[str, float], step: int | None
) -> None:
    assert stopped_at(values, **config) == step


def test_the_reason_names_metric_value_and_step() -> None:
    progress = Progress(step=4, watched=50.0, watched_step=3)
    config = EarlyStoppingConfig(metric="rsum", patience=1, min_gain=0.5)
    watch(progress, {"caption/rsum": 50.5}, config, "gap", 9)
    assert ended_early(progress, 9) == (
        "Stopped early at step 4 of 9: rsum was 50.00 at step 3 and has not risen by more than 0.5 "
        "in 1 evaluation"
    )
    with pytest.raises(UserError, match=r"^training.early_stopping.metric: unknown metric gap"):
        watch(progress, {"caption/rsum": 50.5}, EarlyStoppingConfig(), "gap", 9)


def test_the_last_step_is_no_early_end() -> None:
    progress = Progress(step=9, watched=50.0, watched_step=3)
    watch(progress, {"caption/rsum": 50.0}, EarlyStoppingConfig(patience=1), "rsum", 9)
    assert (progress.stopped, progress.evaluations_without_gain) == (None, 1)
