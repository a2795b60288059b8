"""Sweep: trials of a recipe under Ray Tune, recorded in the journal of its folder."""

import random
import shutil
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from ray import tune
from ray.tune.experiment import Experiment
from ray.tune.experiment import Trial as RayTrial
from ray.tune.search.search_algorithm import SearchAlgorithm

from xmodal.activity import activity, printed, reporting
from xmodal.assembly.recipe import load_recipe
from xmodal.errors import UnfinishedError, UserError
from xmodal.runs.metrics_file import last_row
from xmodal.training.timeline import Timeline
from xmodal.tuning.journal import End, Journal, Measurement, Trial
from xmodal.tuning.schedulers import scheduler_of
from xmodal.tuning.search import Search
from xmodal.tuning.space import values_of
from xmodal.tuning.trial import Plan, Training

RETRIES = 2  # of a trial whose workers crash
MEASURED = [field.name for field in fields(Measurement)]


class Sweep:
    """The trials of a plan, and how they run."""

    def __init__(self, plan: Plan, timeline: Timeline) -> None:
        self.plan = plan
        self.journal = Journal(plan.folder / "journal.jsonl")
        for trial in self.journal.trials.values():
            self._read_back(trial)
        recipe = values_of(plan.recipe, plan.space)
        self.search = Search(plan.space, recipe, self.journal)
        self.scheduler = scheduler_of(plan.space, timeline, self.journal)

    @property
    def num_over(self) -> int:
        """Number of trials that are over."""
        return sum(trial.end is not None for trial in self.journal.trials.values())

    @property
    def is_over(self) -> bool:
        """True if nothing is left to do."""
        return self.num_over >= max(self.plan.space.trials, len(self.journal.trials))

    def run(self, gpus: float, concurrent: int) -> None:
        """Run the trials that are not over, and new ones until there are enough, so many at a time,
        each worker with so many `gpus`.

        Raises `UnfinishedError` where a signal ended it before.
        """
        seed = self.plan.space.seed + len(self.journal.trials)
        random.seed(seed)  # Ray's schedulers draw from these two
        np.random.seed(seed % 2**32)  # noqa: NPY002
        scratch = self.plan.folder / "ray"
        _make_private(scratch)
        supply = Supply(self, concurrent)
        training = tune.with_parameters(Training, plan=self.plan, gpus=gpus)
        tuner = tune.Tuner(
            # The workers have what a trial needs; Ray will not have it be nothing at all.
            tune.with_resources(training, tune.PlacementGroupFactory([{"memory": 1}])),
            tune_config=tune.TuneConfig(search_alg=supply, scheduler=self.scheduler, num_samples=1),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(scratch),
                callbacks=[Notes(self)],
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                verbose=0,
            ),
        )
        with reporting(partial(print, flush=True)), activity(lambda: self._state(supply)):
            tuner.fit()
        shutil.rmtree(scratch, ignore_errors=True)
        if not self.is_over:
            raise UnfinishedError(
                f"Interrupted; {self.num_over} of {self.plan.space.trials} trials are over. Rerun "
                "the same command to resume."
            )

    def note(self, name: str, event: dict[str, Any]) -> None:
        """Add an event of a trial to the journal, and log it."""
        self.journal.add(name, event)
        trial = self.journal.trials[name]
        if "value" in event:
            what = f"{self.plan.metric} {event['value']:.4g} at step {event['step']:,}"
        elif "weights" in event:
            what = f"continues from the weights of {event['weights']} at step {event['step']:,}"
        else:
            what = event["end"] + (f": {trial.line}" if trial.line else "")
            self.search.tell(trial)
        print(f"trial {name}: {what}", flush=True)
        printed()

    def _state(self, supply: "Supply") -> str:
        """Return the progress of the sweep and its trials."""
        trials = [self._progress_of(name) for name in sorted(supply.running)]
        over = f"{self.num_over} of {self.plan.space.trials} trials are over"
        return "; ".join([over, *trials])

    def _progress_of(self, name: str) -> str:
        row = last_row(self.plan.run(name).metrics)
        return f"trial {name} at step {row['step']:,}" if row else f"trial {name} starting"

    def _read_back(self, trial: Trial) -> None:
        """Take the values of a trial to resume from its run folder: whoever killed the
        sweep may have killed it between the two.
        """
        if trial.end is None and (self.plan.run(trial.name).path / "recipe.yaml").is_file():
            trial.values = values_of(load_recipe(self.plan.run(trial.name).path), self.plan.space)


class Supply(SearchAlgorithm):
    """Hands trials to Tune, so many at a time: first those to resume, then new ones."""

    def __init__(self, sweep: Sweep, concurrent: int) -> None:
        self.sweep, self.concurrent = sweep, concurrent
        trials = sweep.journal.trials
        self.waiting = [trial for trial in trials.values() if trial.end is None]
        self.running: set[str] = set()

    def add_configurations(self, experiments: list[Experiment]) -> None:
        """Take the configuration that Tune makes trials of."""
        self.spec = experiments[0].spec

    @property
    def total_samples(self) -> int:
        """Number of all trials."""
        return self.sweep.plan.space.trials

    def is_finished(self) -> bool:
        """True if every trial has been handed out."""
        enough = len(self.sweep.journal.trials) >= self.total_samples
        return self._finished or (not self.waiting and enough)

    def next_trial(self) -> RayTrial | None:
        """Return a trial, if there is one and room for it."""
        if self.is_finished() or len(self.running) >= self.concurrent:
            return None
        trial = self.waiting.pop(0) if self.waiting else self.sweep.search.ask()
        self.running.add(trial.name)
        return RayTrial(
            self.spec["run"],
            config=dict(trial.values),
            trial_id=trial.name,
            storage=self.spec["storage"],
            checkpoint_config=self.spec["checkpoint_config"],
            max_failures=RETRIES,
            trial_dirname_creator=lambda one: one.trial_id,
        )

    def on_trial_complete(
        self,
        trial_id: str,
        result: dict[str, Any] | None = None,  # noqa: ARG002
        error: bool = False,  # noqa: ARG002
    ) -> None:
        """Make room for the next one."""
        self.running.discard(trial_id)


class Notes(tune.Callback):
    """Has the sweep note what Tune's trials report and how they end."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self.failed: dict[str, str] = {}

    def on_trial_result(self, *, trial: RayTrial, result: dict[str, Any], **_: Any) -> None:
        """Note a measurement, and from whose weights it came."""
        if "failed" in result:
            self.failed[trial.trial_id] = result["failed"]
        if "weights" in result:
            event = {"weights": result["weights"], "step": result["from"]}
            self.sweep.note(trial.trial_id, event | {"values": result["values"]})
        if "value" in result:
            self.sweep.note(trial.trial_id, {key: result[key] for key in MEASURED})

    def on_trial_complete(self, *, trial: RayTrial, **_: Any) -> None:
        """Note that a trial is over: at its end, before it, or by a mistake."""
        line = self.failed.get(trial.trial_id)
        measured = self.sweep.journal.trials[trial.trial_id].measured
        done = bool(measured) and measured[-1].progress >= 1
        end: End = "failed" if line else "finished" if done else "stopped"
        self.sweep.note(trial.trial_id, {"end": end} | ({"line": line} if line else {}))

    def on_trial_recover(self, *, trial: RayTrial, **_: Any) -> None:
        """Log that a trial is started again after a crash of its workers."""
        print(f"trial {trial.trial_id}: crashed ({_cause(trial)}), starts again", flush=True)

    def on_trial_error(self, *, trial: RayTrial, **_: Any) -> None:
        """Note that a trial's workers have crashed more often than it is tried."""
        where = self.sweep.plan.folder / "logs" / f"{trial.trial_id}.log"
        line = f"crashed ({_cause(trial)}); see {where}"
        self.sweep.note(trial.trial_id, {"end": "failed", "line": line})


def _make_private(folder: Path) -> None:
    """Make a folder of this user's alone, with nothing in it: Tune pickles the sweep there, and
    reads it back.
    """
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        raise UserError(f"{folder} cannot be removed: remove it, or name another --sweep") from None


def _cause(trial: RayTrial) -> str:
    """Return the last line of the error that ended a trial's workers."""
    lines = str(trial.get_error()).strip().splitlines()
    return next((line for line in reversed(lines) if line.strip()), "no cause is known").strip()
