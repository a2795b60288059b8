"""Two sweeps, run on one machine and on the nodes of a job, and what has to come of them."""

import csv
import json
import time
from pathlib import Path
from typing import Any

import torch
import yaml

from shards.build import build
from tests.commands import ROOT
from tests.run_folders import evaluations
from xmodal.assembly.recipe import load_recipe
from xmodal.runs.run import Run
from xmodal.tuning.journal import Journal, Trial

LR = "stages.0.optimizer.lr"
DECAY = "stages.0.optimizer.weight_decay"
DECAYS = [0.0, 0.1, 0.2, 0.3]
QUICKSTART = ROOT / "launch" / "spaces" / "quickstart.yaml"


def write_space(folder: Path, **keys: Any) -> Path:
    """Write a SPACE.yaml with the keys that are given, over two trials and a learning rate."""
    values = {"metric": "rsum", "trials": 2, "space": {LR: {"log_uniform": [1e-4, 1e-2]}}}
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump(values | keys, sort_keys=False))
    return path


def journal(sweep: Path) -> dict[str, Trial]:
    return Journal(sweep / "journal.jsonl").trials


def lines(sweep: Path, mark: str) -> int:
    file = sweep / "journal.jsonl"
    return file.read_text().count(mark) if file.exists() else 0


def told(sweep: Path, begun: float) -> str:
    """Return what a sweep has found, and how long it took since it has `begun`."""
    return f"{(sweep / 'trials.csv').read_text()}{time.monotonic() - begun:.0f} s"


def rows(sweep: Path) -> dict[str, dict[str, str]]:
    """Return the rows of trials.csv by trial, in their order."""
    with (sweep / "trials.csv").open() as file:
        return {row["trial"]: row for row in csv.DictReader(file)}


def assert_whole(sweep: Path, trial: Trial) -> None:
    """Check that a trial's run folder says what the journal says."""
    run = sweep / "trials" / trial.name
    measured = evaluations(run)
    for one in trial.measured:
        assert measured[one.step]["relevance/rsum"] == one.value
    assert load_recipe(run).stages[0].optimizer.lr == trial.values[LR]
    if trial.end == "finished":
        assert (run / "results.json").is_file()
    assert any((run / "tensorboard").glob("*.hparams"))


def asha(folder: Path, space: Path = QUICKSTART) -> list[str]:
    """Return the words of eight trials of two workers over the quickstart's recipe, on a tenth of
    its scenes.
    """
    data = folder / "scenes"
    build("scenes", data, splits=("train", "val"), options={"train": 2000, "val": 200})
    words = ["quickstart", "--space", str(space), "--sweep", f"{folder}/sweep"]
    words += [f"data.train={data}/train", f"data.val={data}/val", "data.workers=0"]
    return [*words, "stages.0.length=4 epochs"]


def is_in_the_middle(sweep: Path) -> bool:
    """Tell whether some trials of `asha` are over, and another one is not."""
    return lines(sweep, '"end"') >= 3 and any(
        trial.end is None and trial.measured for trial in journal(sweep).values()
    )


def assert_asha(sweep: Path, before: dict[str, Trial]) -> None:
    """Check the end of `asha`, which was killed when its trials were what they were `before`."""
    after = journal(sweep)
    assert len(after) == 8
    assert any(trial.end is None for trial in before.values())
    for name, trial in before.items():
        # What was over stays as it was, and what was not goes on from where it was.
        assert after[name].values == trial.values
        assert trial.end is None or after[name] == trial
    for trial in after.values():
        assert_whole(sweep, trial)
    ends = [trial.end for trial in after.values()]
    assert ends.count("stopped") >= 2
    assert set(ends) == {"stopped", "finished"}
    table = rows(sweep)
    best, default = (float(table[name]["relevance/rsum"]) for name in (next(iter(table)), "000"))
    assert best > default + 5


def population(folder: Path, recipe: Path, *, cpus: float) -> list[str]:
    """Return the words of two trials of two workers that exchange weights."""
    keys = {LR: {"log_uniform": [1e-6, 1e-2]}, DECAY: {"choice": DECAYS}}
    scheduler = {"kind": "pbt", "interval": "30 steps", "quantile": 0.5}
    resources = {"cpus": cpus}
    space = write_space(folder, workers=2, resources=resources, scheduler=scheduler, space=keys)
    # Long enough that trials which do not start at the same moment meet.
    words = [str(recipe), "--space", str(space), "--sweep", f"{folder}/sweep"]
    words += ["stages.0.length=600 steps", "evaluation.every=30 steps"]
    return [*words, "checkpoints.every=30 steps", "training.log_every=30"]


def assert_population(sweep: Path) -> None:
    """Check the end of `population`: weights went from trial to trial, as run folders say."""
    trials = journal(sweep)
    assert {trial.end for trial in trials.values()} == {"finished"}
    taken = [trial for trial in trials.values() if trial.weights]
    assert taken
    for trial in taken:
        run = sweep / "trials" / trial.name
        said = [json.loads(line) for line in (run / "lineage.jsonl").read_text().splitlines()]
        assert [Path(line["weights"]).name for line in said] == [name for _, name in trial.weights]
        assert [line["step"] for line in said] == [step for step, _ in trial.weights]
        assert 1e-6 <= trial.values[LR] <= 1e-2
        assert trial.values[DECAY] in DECAYS
        assert_whole(sweep, trial)
        # The optimiser that went on is the donor's, its decay the trial's.
        file = Run(run).checkpoint(600) / "mp_rank_00_model_states.pt"
        state = torch.load(file, map_location="cpu", weights_only=False)["optimizer"]
        assert {group["weight_decay"] for group in state["param_groups"]} == {
            0.0,
            trial.values[DECAY],
        }
        assert f"weights of {trial.weights[0][1]}" in rows(sweep)[trial.name]["note"]
