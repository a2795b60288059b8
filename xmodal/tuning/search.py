"""Search: values of the next trial, from a trial to resume, else from Optuna."""

import optuna
from optuna.trial import TrialState, create_trial

from xmodal.tuning.config import SpaceConfig
from xmodal.tuning.journal import Journal, Trial
from xmodal.tuning.space import Values, distributions, from_optuna, to_optuna


class Search:
    """Finds values by a sampler of Optuna, which learns from the trials of the journal.

    The first trial is the recipe as it is.
    """

    def __init__(self, space: SpaceConfig, recipe: Values, journal: Journal) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.space, self.recipe, self.journal = space, recipe, journal
        self.distributions = distributions(space)
        self.study = optuna.create_study(
            direction="maximize" if space.mode == "max" else "minimize"
        )
        self.numbers: dict[str, int] = {}  # in the study, of those that are not over
        for trial in journal.trials.values():
            self._begin(trial)
            if trial.end is not None:
                self.tell(trial)

    def ask(self) -> Trial:
        """Add a new trial to the journal and return it."""
        number = len(self.journal.trials)
        name, values = f"{number:03d}", dict(self.recipe)
        if number > 0:
            drawn = self._draw(number)
            self.numbers[name] = drawn.number
            values = from_optuna(drawn.params, self.space)
        self.journal.add(name, {"values": values})
        trial = self.journal.trials[name]
        if number == 0:
            self._begin(trial)
        return trial

    def tell(self, trial: Trial) -> None:
        """Note the end of a trial."""
        number = self.numbers.pop(trial.name, None)
        if number is not None:
            best = trial.best(self.space.mode)
            failed = trial.end == "failed" or best is None
            state = TrialState.FAIL if failed else TrialState.COMPLETE
            self.study.tell(number, None if best is None or failed else best.value, state)

    def _draw(self, number: int) -> optuna.Trial:
        # A seed for each trial: a sweep that was begun again draws what it would have drawn.
        seed = 1_000_003 * self.space.seed + number
        if self.space.search == "random":
            self.study.sampler = optuna.samplers.RandomSampler(seed)
        else:
            self.study.sampler = optuna.samplers.TPESampler(
                seed=seed,
                n_startup_trials=min(10, 1 + self.space.trials // 4),
                constant_liar=True,  # trials that run at the same time are to differ
            )
        return self.study.ask(self.distributions)

    def _begin(self, trial: Trial) -> None:
        """Add a trial to the study if its values are in the space."""
        parameters = to_optuna(trial.values, self.space)
        if parameters is not None:
            self.numbers[trial.name] = len(self.study.trials)
            self.study.add_trial(
                create_trial(
                    state=TrialState.RUNNING,
                    params=parameters,
                    distributions=self.distributions,
                )
            )
