"""The values of trials: drawn alike whenever a sweep is begun again, and better by Optuna."""

import math
from pathlib import Path
from statistics import mean

import pytest

from xmodal.tuning.config import SpaceConfig
from xmodal.tuning.journal import Journal, Trial
from xmodal.tuning.search import Search

KEYS = {"lr": {"log_uniform": [1e-5, 1.0]}, "crop": {"choice": [None, [0.5, 1.0]]}}
RECIPE = {"lr": 1.0, "crop": None}


def value_of(trial: Trial) -> float:
    """A metric with its best at a rate of 1e-3 and without a crop."""
    return -abs(math.log10(trial.values["lr"]) + 3) - (trial.values["crop"] is not None)


def sweep(folder: Path, search: str, *, trials: int, parts: int = 1, mode: str = "max") -> Journal:
    """Search to the end, in so many parts, each with what the journal tells it."""
    values = {"metric": "m", "trials": trials, "search": search, "mode": mode, "space": KEYS}
    space, file = SpaceConfig.model_validate(values), folder / f"{search}{parts}{mode}"
    for part in range(1, parts + 1):
        journal = Journal(file)
        found = Search(space, RECIPE, journal)
        while len(journal.trials) < trials * part / parts:
            trial = found.ask()
            value = value_of(trial) * (1 if mode == "max" else -1)
            measured = {"value": value, "step": 1, "samples": 8, "progress": 1.0}
            journal.add(trial.name, measured)
            journal.add(trial.name, {"end": "finished"})
            found.tell(trial)
    return Journal(file)


@pytest.mark.parametrize("search", ["random", "optuna"])
def test_begun_again_it_draws_what_it_would_have_drawn(search: str, tmp_path: Path) -> None:
    whole, parts = sweep(tmp_path, search, trials=16), sweep(tmp_path, search, trials=16, parts=4)
    assert whole.trials == parts.trials
    assert whole.trials["000"].values == RECIPE
    assert len({trial.values["lr"] for trial in whole.trials.values()}) == 16


@pytest.mark.parametrize("mode", ["max", "min"])
def test_optuna_learns_from_earlier_trials(mode: str, tmp_path: Path) -> None:
    late = {
        search: mean(
            value_of(trial)
            for trial in list(sweep(tmp_path, search, trials=40, mode=mode).trials.values())[20:]
        )
        for search in ("random", "optuna")
    }
    assert late["optuna"] > late["random"] + 0.5


def test_a_journal_forgets_what_was_half_written(tmp_path: Path) -> None:
    file = tmp_path / "journal.jsonl"
    journal = Journal(file)
    journal.add("000", {"values": {"lr": 1.0}})
    journal.add("000", {"value": 3.0, "step": 6, "samples": 60, "progress": 0.5})
    journal.add("000", {"value": 5.0, "step": 12, "samples": 120, "progress": 1.0})
    with file.open("a") as lines:
        lines.write('{"trial": "000", "en')
    again = Journal(file)
    assert again.trials == journal.trials
    # What a run measures again after its checkpoint takes the place of what it had measured.
    again.add("000", {"value": 4.0, "step": 6, "samples": 60, "progress": 0.5})
    again.add("000", {"value": math.nan, "step": 12, "samples": 120, "progress": 1.0})
    again.add("000", {"end": "failed", "line": "the loss is nan"})
    trial = Journal(file).trials["000"]
    assert [one.step for one in trial.measured] == [6, 12]
    best = trial.best("max")
    assert best is not None
    assert best.value == 4.0
    assert (trial.end, trial.line) == ("failed", "the loss is nan")
