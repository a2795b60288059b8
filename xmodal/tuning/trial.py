"""A trial: an ordinary run of the recipe with its values, by workers that Ray Train starts.

A worker that reports waits until Tune has decided whether the trial continues, so that one that is
stopped, or continues from other weights, never writes into its run folder afterwards.
"""

import json
import os
import threading
import traceback
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
from ray import train, tune
from ray.train.torch import TorchTrainer
from ray.util.placement_group import (
    PlacementGroup,
    get_current_placement_group,
    remove_placement_group,
)

from xmodal.assembly.recipe import Recipe, with_values
from xmodal.atomic_files import open_itself
from xmodal.errors import Guarded, UserError
from xmodal.runs.run import Run
from xmodal.tuning.config import SpaceConfig
from xmodal.tuning.journal import Measurement
from xmodal.tuning.mailbox import Mailbox

POINTER = "trial.json"  # all that a checkpoint of Tune's holds: which trial, at which step
PATIENCE = 30  # seconds that Ray Train gets to end workers that are gone


@dataclass(frozen=True)
class Plan:
    """Plan of a sweep, common to all its trials."""

    recipe: Recipe
    space: SpaceConfig
    metric: str  # its full name
    folder: Path  # of the sweep
    place: Path  # folder that paths of the recipe are relative to

    def run(self, trial: str) -> Run:
        """Return a trial's run folder."""
        return Run(self.folder / "trials" / trial)

    def recipe_of(self, trial: str, values: dict[str, Any]) -> Recipe:
        """Return the recipe that a trial trains.

        Raises `UserError` where the journal gives it values of other keys than the space's.
        """
        if others := sorted(values.keys() - self.space.space.keys()):
            raise UserError(
                f"trial {trial} has a value of {others[0]}, a key that space.yaml lacks"
            )
        place = {"run": str(self.run(trial).path)}
        if self.recipe.checkpoints.mirror:
            place["checkpoints.mirror"] = f"{self.recipe.checkpoints.mirror}/{trial}"
        return with_values(self.recipe, values | place, f"trial {trial}")


class Training(tune.Trainable):
    """Trial as Tune runs it: has Ray Train start the workers, and passes on their reports.

    Its checkpoints say no more than whose they are: the weights are in the run folders. Each worker
    gets so many `gpus`.
    """

    def setup(self, config: dict[str, Any], plan: Plan, gpus: float) -> None:
        """Take a trial's values; what it continues from is not known yet."""
        os.chdir(plan.place)
        self.values, self.plan, self.gpus = config, plan, gpus
        self.pointer: dict[str, Any] = {"trial": self.trial_id}
        self.mailbox: Any = None
        self.room: PlacementGroup | None = None

    def step(self) -> dict[str, Any]:
        """Let the workers continue and return their next report; done at their end."""
        said: dict[str, Any] = {}
        try:
            if self.mailbox is None:
                said = self._start()
            else:
                ray.get(self.mailbox.answer.remote())
        except UserError as error:
            return {"failed": str(error), "done": True}
        letter = ray.get(self.mailbox.next.remote())
        if isinstance(letter, PlacementGroup):
            self.room = letter
            letter = ray.get(self.mailbox.next.remote())
        if isinstance(letter, Exception):
            raise letter
        if letter is None or "failed" in letter:
            return {"done": True} | said | (letter or {})
        if letter["progress"] < 1:  # from the end nobody could continue
            self.pointer = {"trial": self.trial_id, "step": letter["step"]}
        return letter | said

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Write a checkpoint that names the owner of the weights."""
        Path(checkpoint_dir, POINTER).write_text(json.dumps(self.pointer))

    def load_checkpoint(self, checkpoint: str) -> None:
        """Note the weights to continue from."""
        self.pointer = json.loads(Path(checkpoint, POINTER).read_text())

    def cleanup(self) -> None:
        """End the workers where they have not ended: their room is for other trials."""
        if self.room is not None:
            remove_placement_group(self.room)
            self.workers.join(PATIENCE)

    def _start(self) -> dict[str, Any]:
        """Start the workers, from others' weights if Tune asks for it; return lines for the log."""
        recipe = self.plan.recipe_of(self.trial_id, self.values)
        said: dict[str, Any] = {}
        donor = self.pointer["trial"]
        if donor != self.trial_id:
            from xmodal.runs.checkpoints.clone import clone_checkpoint

            run, other = self.plan.run(self.trial_id), self.plan.run(donor)
            taken = clone_checkpoint(run, other, self.pointer["step"], recipe)
            # Tune may have given the trial other values by the time that this is heard.
            said = {"weights": donor, "from": taken, "values": self.values}
        self.mailbox = ray.remote(num_cpus=0)(Mailbox).remote()
        self.workers = threading.Thread(target=self._train, args=(recipe,), daemon=True)
        self.workers.start()
        return said

    def _train(self, recipe: Recipe) -> None:
        """Have Ray Train start the workers, and wait for their end."""
        space, end = self.plan.space, None
        resources = {"CPU": space.resources.cpus, "GPU": self.gpus}
        work = {"plan": self.plan, "trial": self.trial_id, "recipe": recipe}
        try:
            TorchTrainer(
                _work,
                train_loop_config=work | {"mailbox": self.mailbox},
                scaling_config=train.ScalingConfig(
                    num_workers=space.workers,
                    use_gpu=self.gpus > 0,
                    resources_per_worker={key: value for key, value in resources.items() if value},
                ),
                # Tune tries a trial again whose workers have crashed.
                run_config=train.RunConfig(
                    name=f"train-{self.trial_id}", storage_path=str(self.plan.folder / "ray")
                ),
            ).fit()
        except Exception as error:  # whatever ended them is the trial's end
            end = error
        ray.get(self.mailbox.put.remote(end))


def _work(given: dict[str, Any]) -> None:
    """Train a trial as one of its ranks."""
    plan, recipe, mailbox = given["plan"], given["recipe"], given["mailbox"]
    if train.get_context().get_world_rank() == 0:
        ray.get(mailbox.put.remote(get_current_placement_group()))
    os.chdir(plan.place)
    logs = plan.folder / "logs"
    logs.mkdir(exist_ok=True)
    log = open_itself(logs / f"{given['trial']}.log", "a", buffering=1)
    shown: Any = Guarded(log)  # as a command's output is
    with log, redirect_stdout(shown), redirect_stderr(shown):
        try:
            _train_session(plan, recipe, mailbox)
        except UserError as error:
            ray.get(mailbox.put.remote({"failed": str(error)}))
            raise
        except Exception:
            traceback.print_exc()
            raise


def _train_session(plan: Plan, recipe: Recipe, mailbox: Any) -> None:
    from xmodal.assembly.session import Session
    from xmodal.distributed.environment import start

    environment = start(recipe.training.rendezvous_timeout)

    def report(step: int, steps: int, metrics: dict[str, float]) -> None:
        if environment.is_main:
            samples = step * recipe.data.batch_size
            measured = Measurement(metrics[plan.metric], step, samples, step / steps)
            ray.get(mailbox.report.remote(asdict(measured)))

    Session(recipe, environment, report).train()
