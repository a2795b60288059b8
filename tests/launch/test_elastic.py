"""Runs that go on on another number of ranks, under every ZeRO stage, as if nothing had been."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.commands import train
from tests.launch.conftest import STEPS
from tests.run_folders import STEP, changed, note_ids, noted_ids, steps, weights
from xmodal.runs.run import Run

KILLED = "xmodal.runs.run:Run.log:{}"  # as it logs its so-manieth step


def go_on(run: Path, *given: object, ranks: Sequence[int], every: int) -> None:
    """Train on each number of ranks in turn, killed half-way to the second checkpoint; on the last
    to the end. Ids are noted beside the run.
    """
    for number, count in enumerate(ranks):
        last = number == len(ranks) - 1
        ids = run.parent / f"ids-{number}"
        ids.mkdir()
        done = train(
            *(*given, f"run={run}", "data.val=null", f"checkpoints.every={every} steps"),
            ranks=count,
            killed_at="" if last else KILLED.format(every + every // 2),
            before={STEP: partial(note_ids, ids)},
        )
        assert done.code == (0 if last else -9), done.err
        assert f"main: steps {number * every + 1} to " in done.out


def trained_on(run: Path, parts: int, every: int) -> list[int]:
    """Return the ids that the last weights were trained on, in order."""
    found: dict[int, list[int]] = {}
    for number in range(parts):
        ids = noted_ids(run.parent / f"ids-{number}")
        found = {step: found[step] for step in range(1, number * every + 1)} | ids
    return [one for step in sorted(found) for one in found[step]]


def assert_close(run: Path, other: Path) -> float:
    """Check that two runs have the same steps and nearly the same values; return by what share of
    them their losses differ at most.
    """
    assert list(steps(run)) == list(steps(other))
    for name in ("loss", "lr", "temperature"):
        assert list(steps(run, name).values()) == pytest.approx(
            list(steps(other, name).values()), rel=1e-5
        )
    losses = zip(steps(run).values(), steps(other).values(), strict=True)
    return max(abs(ours - theirs) / abs(theirs) for ours, theirs in losses)


def test_on_one_rank_and_on_four_it_goes_on_as_if_nothing_had_been(
    recipe: Path, finished: Path, tmp_path: Path, figure: Callable[[str], None]
) -> None:
    run = tmp_path / "run"
    go_on(run, recipe, "training.zero=2", ranks=(2, 1, 4), every=4)
    figure(f"losses within {assert_close(run, finished):.1e}")
    ids = trained_on(run, 3, every=4)
    assert len(ids) == STEPS * 32
    assert all(len(set(ids[start : start + 192])) == 192 for start in range(0, len(ids), 192))


OPTIMIZERS: dict[str, dict[str, Any]] = {
    "adamw": {"kind": "adamw", "lr": 3e-4, "weight_decay": 0.1},
    "amsgrad": {"kind": "adam", "lr": 3e-4, "amsgrad": True},
    "sgd": {"kind": "sgd", "lr": 0.05, "momentum": 0.9},
    "sgd without momentum": {"kind": "sgd", "lr": 0.05, "momentum": 0},
}
# Parts are locked, one has a rate of its own, and one a group of a single number.
PARTS = ['stages.0.train=["text", "image.head", "loss"]', 'stages.0.schedule.constant=["loss"]']


@pytest.mark.slow
@pytest.mark.parametrize(
    ("zero", "optimizer", "given"),
    [
        *((zero, optimizer, []) for zero, optimizer in product(range(4), OPTIMIZERS)),
        *((zero, "adamw", PARTS) for zero in range(4)),
        *((zero, "adamw", ["data.micro_batch_size=4"]) for zero in range(4)),
    ],
)
def test_every_optimizer_goes_on_under_every_stage(
    zero: int,
    optimizer: str,
    given: list[str],
    recipe: Path,
    tmp_path: Path,
    figure: Callable[[str], None],
) -> None:
    values = OPTIMIZERS[optimizer] | ({"factors": {"text.head": 3}} if given == PARTS else {})
    words = [recipe, f"training.zero={zero}", f"stages.0.optimizer={json.dumps(values)}", *given]
    run, whole = tmp_path / "run", tmp_path / "whole"
    done = train(*words, f"run={whole}", "data.val=null", "checkpoints.every=4 steps")
    assert done.code == 0, done.err
    go_on(run, *words, ranks=(2, 1, 4), every=4)
    figure(f"losses within {assert_close(run, whole):.1e}")
    if given == PARTS:
        parts = changed(weights(whole, 20, zero), weights(run, STEPS, zero))
        assert parts == {"image.head", "text.head", "text.backbone", "loss.log_scale"}


@pytest.mark.slow
def test_a_stage_that_begins_elsewhere_goes_on_too(recipe: Path, tmp_path: Path) -> None:
    stages = [{"name": "main", "length": "8 steps"}, {"name": "main", "length": "16 steps"}]
    words = [recipe, "training.zero=1", f"stages={json.dumps(stages)}"]
    done = train(*words, f"run={tmp_path}/whole", "data.val=null")
    assert done.code == 0, done.err
    go_on(tmp_path / "run", *words, ranks=(2, 2, 1), every=4)
    assert Run(tmp_path / "run").latest() == Run(tmp_path / "run").checkpoint(STEPS)
    assert_close(tmp_path / "run", tmp_path / "whole")
