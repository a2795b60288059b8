"""Schedulers of Ray Tune: early stopping and population-based training."""

from typing import Any

from ray.tune.experiment import Trial as RayTrial
from ray.tune.schedulers import (
    AsyncHyperBandScheduler,
    FIFOScheduler,
    PopulationBasedTraining,
    TrialScheduler,
)

from xmodal.components.config import Span
from xmodal.training.timeline import Timeline
from xmodal.tuning.config import AshaConfig, PopulationConfig, SpaceConfig
from xmodal.tuning.journal import Journal
from xmodal.tuning.space import kept_within, mutations


def scheduler_of(space: SpaceConfig, timeline: Timeline, journal: Journal) -> TrialScheduler:
    """Return the scheduler of a space, with the reports of its trials so far.

    Time is samples, which recipes of different batch sizes have in common.
    """
    common: dict[str, Any] = {"time_attr": "samples", "metric": "value", "mode": space.mode}

    def samples(span: Span) -> int:
        return timeline.steps(span) * timeline.batch_size

    match space.scheduler:
        case AshaConfig(grace=grace, reduction=reduction):
            most = timeline.total * timeline.batch_size
            scheduler = AsyncHyperBandScheduler(
                **common,
                max_t=most,
                grace_period=min(samples(grace), most),
                reduction_factor=reduction,
                stop_last_trials=False,
            )
            _tell(scheduler, journal)
            return scheduler
        case PopulationConfig(interval=interval, quantile=quantile, resample=resample):
            return Population(
                **common,
                perturbation_interval=samples(interval),
                hyperparam_mutations=mutations(space),
                quantile_fraction=quantile,
                resample_probability=resample,
                custom_explore_fn=kept_within(space),
                log_config=False,
                require_attrs=False,
            )
        case _:
            return FIFOScheduler()


def _tell(scheduler: TrialScheduler, journal: Journal) -> None:
    """Replay earlier reports of trials to a new scheduler."""
    for trial in journal.trials.values():
        stand_in = RayTrial("", trial_id=trial.name, stub=True)
        scheduler.on_trial_add(None, stand_in)
        for one in trial.measured:
            seen = {"samples": one.samples, "value": one.value}
            scheduler.on_trial_result(None, stand_in, seen)


class Population(PopulationBasedTraining):
    """Ray's population-based training of a population that has room to train all at once."""

    def on_trial_result(self, controller: Any, trial: RayTrial, result: dict[str, Any]) -> str:
        """Decide what becomes of a trial; it makes no room for one that is starting again."""
        if result.get("progress", 0) >= 1:
            return str(self.CONTINUE)  # it is over, and has no steps left for others' weights
        decision: str = super().on_trial_result(controller, trial, result)
        return self.CONTINUE if decision == self.PAUSE else decision
