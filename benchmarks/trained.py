"""Arms of a study trained on a data set, and measured on its test set.

A run lies in RUNS/SET/ARM-SEED; the test metrics and the time of the processor are in ARM-SEED.json
beside it. A run that is complete there is not trained again, and one that was interrupted is
resumed. Checkpoints are deleted once they are measured.
"""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import xmodal
from benchmarks.beside import console
from benchmarks.studies.study import Arm, DataSet, Fit, Study
from xmodal.assembly.data import Shards
from xmodal.assembly.evaluation import measure_shards
from xmodal.assembly.recipe import Recipe, read_recipe
from xmodal.assembly.session import Session
from xmodal.assembly.width import cut_to_width
from xmodal.atomic_files import write_atomically
from xmodal.distributed.environment import Environment
from xmodal.methods.method import Method
from xmodal.runs.run import Run, step_of

RECIPES = Path(__file__).parent / "recipes"
QUICK = 20  # steps of a stage
Metrics = dict[str, float]


@dataclass
class Trial:
    """An arm of a study, a data set and a seed.

    `overrides` are those of the command line, `quick` asks for stages of 20 steps.
    """

    study: Study
    data: DataSet
    arm: Arm
    seed: int
    run: Path
    overrides: list[str]
    quick: bool = False

    @property
    def results(self) -> Path:
        """File of the test metrics and of the time spent."""
        return self.run.with_name(f"{self.run.name}.json")

    def recipe(self, *more: str) -> Recipe:
        """Return the recipe with all overrides, and some more before those of the command line."""
        path = str(RECIPES / f"{self.arm.recipe}.yaml")
        plain = read_recipe(path, self.data.train, RECIPES)
        changes = [
            f"training.seed={self.seed}",
            f"run={self.run}",
            "training.log_every=50",
            *self.study.overrides,
            *self.data.train,
            *(self.data.changes(plain) if self.data.changes else ()),
            *self.arm.overrides,
            *more,
            *(f"stages.{n}.length={QUICK} steps" for n in range(len(plain.stages) * self.quick)),
            *self.overrides,
        ]
        return read_recipe(path, changes, RECIPES)

    def rows(self, environment: Environment) -> dict[str, Metrics]:
        """Return the test metrics by their row of the table; train and measure what is missing."""
        found = self._read()
        if self.run.exists():
            Run(self.run).check(self.recipe())
        if found.get("recipe") != self._description() or "rows" not in found:
            found = self._run(found, environment)
        return {label: dict(metrics) for label, metrics in found["rows"].items()}

    @property
    def seconds(self) -> float:
        """Seconds of the processor that training and measuring have taken so far."""
        return float(self._read().get("seconds", 0))

    def _run(self, found: dict[str, Any], environment: Environment) -> dict[str, Any]:
        spent, begun = self.seconds, processor_seconds()

        def note(*_: Any) -> None:
            self._write({**found, "seconds": spent + processor_seconds() - begun})

        if self.arm.fit is None:
            Session(self.recipe(), environment, report=note).train()
        rows = {
            label: {**self._measure(weights, environment), **step}
            for label, step, weights in self._measured()
        }
        found = {"recipe": self._description(), "rows": rows}
        note()
        for checkpoint in self.run.glob("checkpoints/step-*"):
            shutil.rmtree(checkpoint)
        return found

    def _measured(self) -> Iterator[tuple[str, Metrics, Fit]]:
        """Yield each row's label, its number of steps as a metric, and what sets its weights."""
        label, run = self.arm.label, Run(self.run)
        if self.arm.fit:
            yield label, {}, self.arm.fit
        elif self.arm.measured == "stages":
            for stage, at in ends_of_stages(run).items():
                yield f"{label}, {stage}", {"steps": at}, of_checkpoint(run.checkpoint(at))
        else:
            folder = run.find_checkpoint(self.arm.measured)
            step: Metrics = {"steps": step_of(folder)}
            if not self.arm.widths:
                yield label, step, of_checkpoint(folder)
            for width in self.arm.widths:
                yield f"{label}, at {width}", step, of_checkpoint(folder, width)

    def _measure(self, weights: Fit, environment: Environment) -> Metrics:
        """Return the metrics on the test set of the method with some weights."""
        with TemporaryDirectory() as folder:
            recipe = self.recipe(*self.data.test, f"run={folder}/run")
            session = Session(recipe, environment)
            read = session.prepare(say)
            say(weights(session.method, read))
            method = session.method.to(environment.device)
            return measure_shards(
                recipe, method, session.shards, read, session.tokenizer, environment.device
            ).metrics

    def _description(self) -> dict[str, Any]:
        """Return the recipe by which it is measured, without what it leaves unset."""
        return self.recipe(*self.data.test).model_dump(mode="json", exclude_unset=True)

    def _read(self) -> dict[str, Any]:
        return json.loads(self.results.read_text()) if self.results.is_file() else {}

    def _write(self, found: dict[str, Any]) -> None:
        self.results.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.results, json.dumps(found, indent=1) + "\n")


def of_checkpoint(folder: Path, width: int | None = None) -> Fit:
    """Return a function that loads a checkpoint into a method and cuts it to a width."""

    def fit(method: Method, _: Shards) -> str:
        trained = xmodal.load(folder.parents[1], checkpoint=folder.name, device="cpu")
        method.load_state_dict(trained.method.state_dict())
        if width is not None:
            cut_to_width(method, trained.recipe, width)
        return f"measuring {folder}"

    return fit


def ends_of_stages(run: Run) -> dict[str, int]:
    """Return the last evaluated step of each stage."""
    return {line["stage"]: line["step"] for line in run.history() if "loss" not in line}


def processor_seconds() -> float:
    """Return the time of the processor that this process and its ended children have taken."""
    return sum(os.times()[:4])


def say(line: str) -> None:
    console.print(line, markup=False)
