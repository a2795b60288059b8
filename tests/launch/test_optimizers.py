"""Runs with other optimisers than ours of before: resumed exactly, and on other ranks."""

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.commands import train
from tests.run_folders import evaluations, steps, weights
from xmodal.runs.averages import read_averages
from xmodal.runs.run import Run

LAST = 8
WORDS = [f"stages.0.length={LAST} steps", "evaluation.every=4 steps", "checkpoints.every=2 steps"]
WORDS += ["checkpoints.keep_last=20", "stages.0.schedule.warmup=2 steps"]
KILLED = "xmodal.runs.run:Run.log:6"  # as it logs step 5, after an evaluation

ELEMENTWISE: dict[str, dict[str, Any]] = {
    "lion": {"kind": "timm", "name": "lion", "lr": 1e-4, "weight_decay": 0.1},
    "adan": {"kind": "timm", "name": "adan", "lr": 3e-4},  # counts steps in its groups
    "schedule-free AdamW": {"kind": "schedule_free_adamw", "lr": 1e-3},
    "schedule-free SGD": {"kind": "schedule_free_sgd", "lr": 0.1, "factors": {"text": 0.5}},
}
OF_MATRICES: dict[str, dict[str, Any]] = {
    "muon": {
        "kind": "timm",
        "name": "muon",
        "lr": 1e-3,
        "fallback": ["text.backbone.words", "*.positions"],
    },
    "adafactor": {"kind": "timm", "name": "adafactor", "lr": 1e-3},
    "lamb": {"kind": "timm", "name": "lamb", "lr": 1e-3, "weight_decay": 0.1},
}


def trained(run: Path, *words: object, ranks: Sequence[int]) -> Path:
    """Train on each number of ranks, killed after step 4 on the first of two."""
    for number, count in enumerate(ranks, 1):
        killed_at = KILLED if number < len(ranks) else ""
        done = train(*words, f"run={run}", ranks=count, killed_at=killed_at)
        assert done.code == (-9 if killed_at else 0), done.err
    return run


def assert_resumed_as_whole(
    folder: Path, *words: object, zero: int, ranks: Sequence[int]
) -> tuple[Path, Path]:
    """Check that a killed run has the losses, metrics, weights and averages of a whole one."""
    words, lion = (*words, f"training.zero={zero}"), any("lion" in str(word) for word in words)
    whole = trained(folder / "whole", *words, ranks=ranks[:1])
    resumed = trained(folder / "resumed", *words, ranks=ranks)
    exact = len(set(ranks)) == 1
    losses, theirs = list(steps(resumed).values()), list(steps(whole).values())
    assert losses == theirs if exact else losses == pytest.approx(theirs, rel=1e-5)
    assert not exact or evaluations(resumed) == evaluations(whole)
    for read in (weights, lambda *of: read_averages(Run(of[0]).checkpoint(of[1]), of[2])):
        ours, others = read(resumed, LAST, zero), read(whole, LAST, zero)
        assert ours.keys() == others.keys()
        # A gradient of zero (of the bias of keys) is rounded to a sign, by which Lion steps.
        bound = 0 if exact else 2 * LAST * ELEMENTWISE["lion"]["lr"] if lion else 1e-4
        for name in ours:
            torch.testing.assert_close(ours[name], others[name], msg=name, rtol=bound, atol=bound)
    return whole, resumed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "zero", "ranks"), [*product(ELEMENTWISE, range(4), [(2, 2), (2, 1)])]
)
def test_what_steps_numbers_goes_on_under_every_stage(
    name: str, zero: int, ranks: tuple[int, ...], recipe: Path, tmp_path: Path
) -> None:
    words = [recipe, *WORDS, f"stages.0.optimizer={json.dumps(ELEMENTWISE[name])}"]
    words += ["stages.0.schedule.kind=constant"] if "schedule" in name else []
    whole, _ = assert_resumed_as_whole(tmp_path, *words, zero=zero, ranks=ranks)
    averages = read_averages(Run(whole).checkpoint(LAST), zero)
    assert bool(averages) == ("schedule" in name)


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_MATRICES)
def test_what_steps_matrices_goes_on(name: str, recipe: Path, tmp_path: Path) -> None:
    words = [recipe, *WORDS, f"stages.0.optimizer={json.dumps(OF_MATRICES[name])}"]
    assert_resumed_as_whole(tmp_path, *words, zero=0, ranks=(2, 2))
    done = train(*words, f"run={tmp_path}/refused", "training.zero=2")
    assert done.error.startswith(f"stages.0.optimizer: a step of {name} needs whole matrices")
    assert not (tmp_path / "refused").exists()
