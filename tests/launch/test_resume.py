"""Runs of `launch/train.py` that are killed, and go on as if nothing had been."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path

import pytest
import torch

from shards.build import build
from tests.commands import train
from tests.launch.conftest import STEPS
from tests.run_folders import (
    STEP,
    changed,
    evaluations,
    kept_checkpoints,
    note_ids,
    noted_ids,
    shown_steps,
    steps,
    weights,
)
from xmodal.runs.run import Run

Ids = dict[int, list[int]]  # of each step's global batch

LENGTH, EVERY = 40, 3  # steps of a run, and between its checkpoints
# Each is called once a step.
MOMENTS = (
    STEP,
    "xmodal.training.gradient_cache:GradientCache.backward",
    "xmodal.training.trainer:Trainer._log",
    "xmodal.training.timeline:Timeline.saves_after",
)
DATA = {
    "one data set": "[{{url: {0}/train}}]",
    "two data sets": "[{{url: {0}/train, weight: 3}}, {{url: {0}/val, weight: 1}}]",
}


@dataclass
class Whole:
    """A run that nobody interrupted, and what it was trained on."""

    run: Path
    given: list[object]
    ids: Ids


@pytest.fixture(scope="module")
def whole(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Whole]:
    """Make a run on shards of 40 samples, or on those and others of 10."""
    shards = tmp_path_factory.mktemp("shards")
    build("scenes", shards, splits=["train"], options={"train": 150}, samples_per_shard=40)
    build("scenes", shards, splits=["val"], options={"val": 50}, samples_per_shard=10)

    @cache
    def trained(data: str, ranks: int, zero: int) -> Whole:
        given = [recipe, f"data.train={DATA[data].format(shards)}", "data.val=null"]
        given += ["data.lanes=8", "data.window=4", "data.crop=[0.5, 1]", "data.flip=true"]
        given += [f"stages.0.length={LENGTH} steps", f"checkpoints.every={EVERY} steps"]
        given += [f"training.zero={zero}"]
        folder = tmp_path_factory.mktemp("whole")
        ids = noting(folder / "ids", *given, f"run={folder}/run", ranks=ranks)
        assert list(ids) == list(range(1, LENGTH + 1))
        return Whole(folder / "run", given, ids)

    return trained


def noting(folder: Path, *arguments: object, ranks: int, killed_at: str = "") -> Ids:
    """Train to the end, or to where it is killed; return the ids of the batches it got."""
    folder.mkdir()
    before = {STEP: partial(note_ids, folder)}
    done = train(*arguments, ranks=ranks, killed_at=killed_at, before=before)
    assert done.code == (-9 if killed_at else 0), done.err
    return noted_ids(folder)


@pytest.mark.parametrize(
    ("data", "ranks", "workers", "zero"),
    [
        ("two data sets", (1, 1, 1), 0, 0),
        ("one data set", (2, 2), 2, 2),
        ("two data sets", (1, 1, 2), 2, 0),
        ("one data set", (2, 1, 2), 0, 0),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                *product(DATA, [(1, 1, 1), (2, 2, 2), (1, 1, 2), (2, 1, 2)], (0, 2), (0,)),
                *product(["two data sets"], [(2, 2, 2)], (2,), (1, 2, 3)),
                *product(["one data set"], [(2, 1, 2)], (0,), (1, 2, 3)),
            ]
        ),
    ],
)
def test_killed_at_random_its_weights_come_from_the_same_samples(
    data: str,
    ranks: Sequence[int],
    workers: int,
    zero: int,
    whole: Callable[..., Whole],
    tmp_path: Path,
) -> None:
    """It goes on on each of `ranks` in turn, and all but the last time it is killed."""
    other, draw = whole(data, ranks[0], zero), random.Random(f"{data} {ranks} {workers} {zero}")
    given = [*other.given, f"run={tmp_path}/run", f"data.workers={workers}"]
    run, behind, moved = tmp_path / "run", Ids(), None
    for number, count in enumerate(ranks):
        resumed = resumed_step(run)
        if count != ranks[0] and moved is None:
            moved = resumed
        # By then the first checkpoint is complete: the second one has waited for it.
        dies = f"{draw.choice(MOMENTS)}:{draw.randrange(2 * EVERY + 1, 12)}"
        last = number == len(ranks) - 1
        ids = noting(tmp_path / str(number), *given, ranks=count, killed_at="" if last else dies)
        assert min(ids) == resumed + 1
        assert resumed or not number
        # What was trained on after the checkpoint went with the process.
        behind = {step: behind[step] for step in range(1, resumed + 1)} | ids
    assert behind == other.ids
    losses, expected = steps(run), steps(other.run)
    if moved is None:
        assert losses == expected
        ours, theirs = weights(run, LENGTH, zero), weights(other.run, LENGTH, zero)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
        return
    compared = range(1, moved + 21)
    assert [losses[step] for step in compared] == pytest.approx(
        [expected[step] for step in compared], rel=1e-5
    )
    assert all(losses[step] == expected[step] for step in range(1, moved + 1))


def resumed_step(run: Path) -> int:
    """Return the step of the checkpoint that a run goes on from."""
    checkpoint = Run(run).latest()
    return int(checkpoint.name.removeprefix("step-")) if checkpoint else 0


@pytest.mark.parametrize("ranks", [1, 2])
def test_every_sample_comes_once_an_epoch(ranks: int, whole: Callable[..., Whole]) -> None:
    order = [id_ for ids in whole("one data set", ranks, 0).ids.values() for id_ in ids]
    epochs = [order[start : start + 150] for start in range(0, len(order) - 149, 150)]
    assert len(epochs) == LENGTH * 32 // 150
    assert all(len(set(epoch)) == 150 and set(epoch) == set(epochs[0]) for epoch in epochs)
    assert len(set(map(tuple, epochs))) == len(epochs)


def test_the_order_is_that_of_any_number_of_ranks(whole: Callable[..., Whole]) -> None:
    assert whole("one data set", 1, 0).ids == whole("one data set", 2, 0).ids


@pytest.mark.parametrize("zero", [3, *(pytest.param(z, marks=pytest.mark.slow) for z in range(3))])
def test_killed_between_micro_batches_it_goes_on_as_if_nothing_had_been(
    zero: int, recipe: Path, tmp_path: Path
) -> None:
    given = [recipe, f"training.zero={zero}", "method.text.dropout=0.1", "data.val=null"]
    given += ["data.micro_batch_size=8", "stages.0.length=5 steps", "checkpoints.every=2 steps"]
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert train(*given, f"run={whole}", ranks=2).code == 0
    # Each step has two micro-batches, of which it encodes one again: here in step 4.
    died = "xmodal.training.gradient_cache:GradientCache._surrogate:4"
    assert train(*given, f"run={run}", ranks=2, killed_at=died).code == -9
    assert list(steps(run)) == [1, 2, 3]
    done = train(*given, f"run={run}", ranks=2)
    assert done.code == 0, done.err
    assert "main: steps 3 to 5" in done.out
    for name in ("loss", "grad_norm", "temperature"):
        assert steps(run, name) == steps(whole, name)
    ours, theirs = weights(run, 5, zero), weights(whole, 5, zero)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


DEATHS = {
    "between two checkpoints": "xmodal.runs.run:Run.log:17",
    "while a checkpoint is written": "xmodal.runs.checkpoints.writer:_write:5",
    "before it is in its place": "xmodal.runs.run:Path.rename:2",
    "before `latest` names it": "xmodal.runs.checkpoints.saving:write_atomically:2",
    "before old ones are deleted": "xmodal.runs.run:Run.prune:3",
}


@pytest.mark.parametrize("moment", DEATHS)
def test_killed_it_goes_on_as_if_nothing_had_been(
    moment: str, recipe: Path, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    assert train(recipe, f"run={run}", killed_at=DEATHS[moment]).code == -9
    assert len(steps(run)) < STEPS
    resumed_from = Run(run).latest()
    assert resumed_from
    done = train(recipe, f"run={run}")
    assert done.code == 0, done.err
    first = int(resumed_from.name.removeprefix("step-")) + 1
    assert f"main: steps {first} to {STEPS}" in done.out
    assert_the_same(run, finished)
    assert kept_checkpoints(run) == kept_checkpoints(finished)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("zero", "ranks"),
    [(0, 2), (1, 2), (2, 2), (3, 2), (3, 1)],
)
def test_killed_ranks_go_on_as_if_nothing_had_been(
    zero: int, ranks: int, recipe: Path, tmp_path: Path
) -> None:
    given = (recipe, f"training.zero={zero}", "method.text.dropout=0.1")
    whole = train(*given, f"run={tmp_path}/whole", ranks=ranks)
    assert whole.code == 0, whole.err
    killed = train(
        *given, f"run={tmp_path}/run", ranks=ranks, killed_at=DEATHS["between two checkpoints"]
    )
    assert killed.code == -9
    done = train(*given, f"run={tmp_path}/run", ranks=ranks)
    assert done.code == 0, done.err
    assert_the_same(tmp_path / "run", tmp_path / "whole", zero)


def assert_the_same(run: Path, other: Path, zero: int = 0) -> None:
    """Two runs have the same losses, measures and last weights, to the last bit."""
    for name in ("loss", "grad_norm", "lr", "temperature"):
        assert steps(run, name) == steps(other, name)
    assert evaluations(run) == evaluations(other)
    assert Run(run).results.read_text() == Run(other).results.read_text()
    ours, theirs = weights(run, STEPS, zero), weights(other, STEPS, zero)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert shown_steps(run) == list(range(1, STEPS + 1))


STAGES = [
    {"name": "heads", "length": "12 steps", "train": ["*.head", "loss"]},
    {"name": "text", "length": "12 steps", "train": ["text", "image.head", "loss"]},
]


@pytest.mark.parametrize("zero", [2, *(pytest.param(z, marks=pytest.mark.slow) for z in (0, 3))])
def test_stages_train_their_parts_and_resume(zero: int, recipe: Path, tmp_path: Path) -> None:
    given = [recipe, f"stages={json.dumps(STAGES)}", f"training.zero={zero}"]
    given += ["checkpoints.keep_last=4"]
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert train(*given, f"run={whole}").code == 0
    killed = train(*given, f"run={run}", killed_at="xmodal.runs.run:Run.log:25")
    assert killed.code == -9
    assert Run(run).latest() == Run(run).checkpoint(18)
    done = train(*given, f"run={run}")
    assert done.code == 0, done.err
    assert "text: steps 19 to 24" in done.out
    assert_the_same(run, whole, zero)
    stage = {row["step"]: row["stage"] for row in Run(run).history() if "loss" in row}
    assert [stage[step] for step in (1, 12, 13, 24)] == ["heads", "heads", "text", "text"]
    early, half, end = (weights(run, step, zero) for step in (6, 12, 24))
    assert changed(early, half) == {"image.head", "text.head", "loss.log_scale"}
    assert changed(half, end) == {"image.head", "text.head", "text.backbone", "loss.log_scale"}
