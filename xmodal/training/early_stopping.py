"""Early stopping: the end of a run whose metric no longer improves."""

from collections.abc import Mapping

from xmodal.runs.progress import Progress, find_metric
from xmodal.training.config import EarlyStoppingConfig


def watch(
    progress: Progress,
    metrics: Mapping[str, float],
    config: EarlyStoppingConfig,
    best: str,
    steps: int,
) -> None:
    """Note the metrics of an evaluation in `progress`, and with `patience` of them without a gain
    the reason why the run is stopped before the last of its `steps`.

    `best` is the metric that is watched where the configuration names none. What is noted is saved
    with each checkpoint, so a run that resumes waits no longer.
    """
    name = config.metric or best
    value = find_metric(metrics, name, "training.early_stopping.metric")
    if progress.watched is None or value > progress.watched + config.min_gain:
        progress.watched, progress.watched_step = value, progress.step
        progress.evaluations_without_gain = 0
        return
    progress.evaluations_without_gain += 1
    if progress.evaluations_without_gain >= config.patience and progress.step < steps:
        gain = f" by more than {config.min_gain:g}" if config.min_gain else ""
        progress.stopped = (
            f"{name} was {progress.watched:.2f} at step {progress.watched_step} and has not risen"
            f"{gain} in {_counted(config.patience)}"
        )


def ended_early(progress: Progress, steps: int) -> str:
    """Return a line about a run that has a reason for its end."""
    end = "Stopped early at" if progress.step < steps else "Finished:"
    return f"{end} step {progress.step} of {steps}: {progress.stopped}"


def _counted(evaluations: int) -> str:
    return f"{evaluations} evaluation{'s' * (evaluations != 1)}"
