"""A scheduler of a sweep that is begun again knows what trials have reported before."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from tests.tuning.sweeps import LR
from xmodal.assembly.recipe import read_recipe
from xmodal.tuning.journal import Journal
from xmodal.tuning.schedulers import scheduler_of
from xmodal.tuning.space import read_space


def test_a_trial_that_is_over_takes_no_weights(
    recipe: Path, space: Callable[..., Path], tmp_path: Path
) -> None:
    read = read_recipe(str(recipe), [], recipe.parent)
    population = {"kind": "pbt", "interval": "6 steps", "quantile": 0.5}
    found, timeline = read_space(space(scheduler=population), read), read.timeline(192)
    scheduler = scheduler_of(found, timeline, Journal(tmp_path / "journal.jsonl"))
    trials = [Trial("", trial_id=name, config={LR: 1e-3}, stub=True) for name in ("000", "001")]
    nobody = SimpleNamespace(search_alg=None)  # that would save or restore a trial
    for trial in trials:
        scheduler.on_trial_add(nobody, trial)
    for trial, value in zip(trials, (10.0, 1.0), strict=True):
        report = {"value": value, "samples": 768, "progress": 1.0}
        assert scheduler.on_trial_result(nobody, trial, report) == TrialScheduler.CONTINUE
        assert trial.config == {LR: 1e-3}


def test_asha_judges_by_trials_of_before(
    recipe: Path, space: Callable[..., Path], tmp_path: Path
) -> None:
    read = read_recipe(str(recipe), [], recipe.parent)
    asha = {"kind": "asha", "grace": "6 steps", "reduction": 2}
    found, timeline = read_space(space(scheduler=asha), read), read.timeline(192)
    before = Journal(tmp_path / "journal.jsonl")
    for number, value in enumerate((10.0, 20.0, 30.0)):
        before.add(f"{number:03d}", {"values": {}})
        measured = {"value": value, "step": 6, "samples": 192, "progress": 0.25}
        before.add(f"{number:03d}", measured)

    def verdict(journal: Journal, name: str, value: float, samples: int = 192) -> str:
        scheduler = scheduler_of(found, timeline, journal)
        trial = Trial("", trial_id=name, stub=True)
        scheduler.on_trial_add(None, trial)
        return scheduler.on_trial_result(None, trial, {"value": value, "samples": samples})

    assert verdict(before, "003", 15.0) == TrialScheduler.STOP
    assert verdict(before, "003", 25.0) == TrialScheduler.CONTINUE
    # Without them the first to come goes on, and so does one before the grace is over.
    assert verdict(Journal(tmp_path / "none"), "003", 15.0) == TrialScheduler.CONTINUE
    assert verdict(before, "003", 15.0, samples=191) == TrialScheduler.CONTINUE
    # What goes on is judged once at a time, not again when it repeats a report.
    assert verdict(before, "000", 5.0) == TrialScheduler.CONTINUE
