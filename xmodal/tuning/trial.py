"""A trial: an ordinary run of the recipe with its values, by workers that Ray Train starts.

Tune runs `run_trial`, which has no work of its own: it starts the workers, and hands on what they
report. A worker that reports waits until the sweep has decided whether the trial goes on, so that
one that is stopped, or goes on from other weights, never writes into its run folder afterwards.
"""

import json
import os
import tempfile
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
from ray import train, tune
from ray.train.torch import TorchTrainer

from xmodal.errors import UserError
from xmodal.recipe import Recipe, with_values
from xmodal.training.run import Run
from xmodal.tuning.config import SpaceConfig
from xmodal.tuning.journal import Measurement
from xmodal.tuning.mailbox import Mailbox

POINTER = "trial.json"  # all that a checkpoint of Tune's holds: which trial, at which step


@dataclass(frozen=True)
class Plan:
    """What all trials of a sweep have in common."""

    recipe: Recipe
    space: SpaceConfig
    metric: str  # its full name
    folder: Path  # of the sweep
    place: Path  # folder that paths of the recipe are relative to

    def run(self, trial: str) -> Run:
        """Return a trial's run folder."""
        return Run(self.folder / "trials" / trial)

    def recipe_of(self, trial: str, values: dict[str, Any]) -> Recipe:
        """Return the recipe that a trial trains."""
        place = {"run": str(self.run(trial).path)}
        if self.recipe.checkpoints.mirror:
            place["checkpoints.mirror"] = f"{self.recipe.checkpoints.mirror}/{trial}"
        return with_values(self.recipe, values | place, f"trial {trial}")


def run_trial(values: dict[str, Any], plan: Plan, gpus: float) -> None:
    """Train a trial to its end, from where its run folder is, and report each evaluation.

    Each worker gets so many `gpus`.
    """
    os.chdir(plan.place)
    trial = tune.get_context().get_trial_id()
    try:
        recipe = plan.recipe_of(trial, values)
        taken = _take_over(plan, trial, recipe)
    except UserError as error:
        tune.report({"failed": str(error)})
        return
    mailbox = ray.remote(num_cpus=0)(Mailbox).remote()
    workers = threading.Thread(
        target=_train, args=(plan, trial, recipe, gpus, mailbox), daemon=True
    )
    workers.start()
    while (letter := ray.get(mailbox.next.remote())) is not None:
        if isinstance(letter, Exception):
            raise letter
        if "failed" in letter:
            tune.report(letter)
            return
        with _pointer(trial, letter["step"]) as checkpoint:
            tune.report(letter | taken, checkpoint=checkpoint)
        taken = {}
        ray.get(mailbox.answer.remote())


def _take_over(plan: Plan, trial: str, recipe: Recipe) -> dict[str, Any]:
    """Go on from another trial's weights where Tune says so, and return what is to be said of it.

    Tune's checkpoints say no more than whose they are: the weights are in the run folders.
    """
    checkpoint = tune.get_checkpoint()
    if checkpoint is None:
        return {}
    with checkpoint.as_directory() as folder:
        pointer = json.loads(Path(folder, POINTER).read_text())
    if pointer["trial"] == trial:
        return {}
    from xmodal.training.takeover import take_over

    donor, step = pointer["trial"], pointer["step"]
    taken = take_over(plan.run(trial), plan.run(donor), step, recipe)
    return {"weights": donor, "from": taken}


@contextmanager
def _pointer(trial: str, step: int) -> Iterator[tune.Checkpoint]:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, POINTER).write_text(json.dumps({"trial": trial, "step": step}))
        yield tune.Checkpoint.from_directory(folder)


def _train(plan: Plan, trial: str, recipe: Recipe, gpus: float, mailbox: Any) -> None:
    """Have Ray Train start a trial's workers, and wait for their end."""
    resources = {"CPU": plan.space.resources.cpus, "GPU": gpus}
    end = None
    try:
        TorchTrainer(
            _work,
            train_loop_config={"plan": plan, "trial": trial, "recipe": recipe, "mailbox": mailbox},
            scaling_config=train.ScalingConfig(
                num_workers=plan.space.workers,
                use_gpu=gpus > 0,
                resources_per_worker={key: value for key, value in resources.items() if value},
            ),
            # Tune tries a trial again whose workers have crashed.
            run_config=train.RunConfig(
                name=f"train-{trial}", storage_path=str(plan.folder / "ray")
            ),
        ).fit()
    except Exception as error:  # whatever ended them is the trial's end
        end = error
    ray.get(mailbox.put.remote(end))


def _work(given: dict[str, Any]) -> None:
    """Train a trial as one of its ranks: what launch/train.py does."""
    plan, recipe, mailbox = given["plan"], given["recipe"], given["mailbox"]
    os.chdir(plan.place)
    logs = plan.folder / "logs"
    logs.mkdir(exist_ok=True)
    log = (logs / f"{given['trial']}.log").open("a", buffering=1)
    with log, redirect_stdout(log), redirect_stderr(log):
        try:
            _train_session(plan, recipe, mailbox)
        except UserError as error:
            ray.get(mailbox.put.remote({"failed": str(error)}))
            raise
        except Exception:
            traceback.print_exc()
            raise


def _train_session(plan: Plan, recipe: Recipe, mailbox: Any) -> None:
    from xmodal.distributed.environment import start
    from xmodal.training.session import Session

    environment = start(recipe.training.roll_call)

    def report(step: int, steps: int, metrics: dict[str, float]) -> None:
        if environment.is_main:
            samples = step * recipe.data.batch_size
            measured = Measurement(metrics[plan.metric], step, samples, step / steps)
            ray.get(mailbox.report.remote(asdict(measured)))

    Session(recipe, environment, report).train()
