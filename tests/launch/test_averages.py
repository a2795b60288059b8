"""Averaged weights: their closed form under every ZeRO stage, resumed, resharded, measured."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

import xmodal
from tests.commands import evaluate, train
from tests.run_folders import evaluations, measured, steps, weights
from xmodal.errors import UserError
from xmodal.runs.averages import read_averages
from xmodal.runs.run import Run
from xmodal.training.config import EMAConfig
from xmodal.training.ema import decay_at

LAST = 8
EMA = EMAConfig(decay=0.8, warmup=3.0)
WORDS = [f"stages.0.length={LAST} steps", "evaluation.every=4 steps", "checkpoints.every=1 steps"]
WORDS += ["checkpoints.keep_last=20", "stages.0.schedule.warmup=2 steps"]
AVERAGED = f"stages.0.ema={EMA.model_dump_json()}"
KILLED = "xmodal.runs.run:Run.log:7"  # as it logs step 6, after an evaluation


def trained_in_turn(run: Path, *words: object, ranks: Sequence[int]) -> None:
    """Train on each number of ranks, killed after step 5 on the first of two."""
    for number, count in enumerate(ranks, 1):
        killed_at = KILLED if number < len(ranks) else ""
        done = train(*words, f"run={run}", ranks=count, killed_at=killed_at)
        assert done.code == (-9 if killed_at else 0), done.err


def by_closed_form(run: Path, zero: int) -> dict[str, Tensor]:
    """Return the sum of all steps' weights, each by its share."""
    shares, left = {}, 1.0
    for step in range(LAST, 0, -1):
        decay = decay_at(EMA, step - 1)
        shares[step], left = left * (1 - decay), left * decay
    assert left == 0  # the average begins with the weights after the first step
    assert sum(shares.values()) == pytest.approx(1)
    all_steps = {step: weights(run, step, zero) for step in shares}
    return {
        name: torch.stack([shares[step] * one[name] for step, one in all_steps.items()]).sum(0)
        for name in all_steps[LAST]
    }


@pytest.mark.parametrize(
    ("zero", "ranks"),
    [
        pytest.param(zero, ranks, marks=() if (zero, ranks) == (3, [2, 1]) else pytest.mark.slow)
        for zero in range(4)
        for ranks in ([2], [2, 2], [2, 1], [1, 2])
    ],
)
def test_the_average_is_its_closed_form_on_all_ranks(
    zero: int, ranks: list[int], recipe: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    trained_in_turn(run, recipe, *WORDS, AVERAGED, f"training.zero={zero}", ranks=ranks)
    checkpoint = Run(run).checkpoint(LAST)
    averages, wanted = read_averages(checkpoint, zero), by_closed_form(run, zero)
    assert averages.keys() <= wanted.keys()
    assert {"loss.log_scale", "image.head.0.weight"} & averages.keys()
    for name, average in averages.items():
        torch.testing.assert_close(
            average.view_as(wanted[name]), wanted[name], rtol=1e-5, atol=1e-7, msg=name
        )
    # What training measured is what is measured afterwards, and loaded.
    done = evaluate(run)
    assert f"step-{LAST} (averaged weights) on " in done.out, done
    assert measured(run)["averaged"] is True
    logged = evaluations(run)[LAST]
    found = json.loads((run / "results.json").read_text())
    assert [found[name] for name in logged] == pytest.approx(list(logged.values()), abs=1e-3)
    model = xmodal.load(run, device="cpu")
    assert model.weights == "averaged"
    loaded = dict(model.method.named_parameters())
    assert all(loaded[name].equal(averages[name].view_as(loaded[name])) for name in averages)


@pytest.mark.parametrize(
    "zero", [0, *(pytest.param(zero, marks=pytest.mark.slow) for zero in range(1, 4))]
)
def test_training_goes_on_with_its_own_weights(zero: int, recipe: Path, tmp_path: Path) -> None:
    words = [recipe, *WORDS, f"training.zero={zero}", "data.micro_batch_size=16"]
    for name, more in (("averaged", [AVERAGED]), ("plain", ["evaluation.every=0"])):
        done = train(*words, *more, f"run={tmp_path / name}")
        assert done.code == 0, done.err
    averaged, plain = tmp_path / "averaged", tmp_path / "plain"
    assert steps(averaged) == steps(plain)
    ours, theirs = weights(averaged, LAST, zero), weights(plain, LAST, zero)
    assert all(ours[name].equal(theirs[name]) for name in ours)
    done = evaluate(averaged, "--weights", "trained")
    assert done.folder.parent == averaged / "evaluations"
    assert measured(done.folder)["averaged"] is False
    assert measured(averaged)["averaged"] is True
    trained = xmodal.load(averaged, weights="trained", device="cpu")
    assert trained.weights == "trained"
    assert all(p.equal(ours[name]) for name, p in trained.method.named_parameters())
    assert xmodal.load(plain, device="cpu").weights == "trained"
    with pytest.raises(UserError, match="has no averaged weights"):
        xmodal.load(plain, weights="averaged", device="cpu")
    assert "has no averaged weights" in evaluate(plain, "--weights", "averaged").error


@pytest.mark.slow
@pytest.mark.parametrize("zero", range(4))
def test_a_stage_averages_anew_and_what_is_locked_is_as_trained(
    zero: int, recipe: Path, tmp_path: Path
) -> None:
    ema = EMA.model_dump()
    stages = [
        {"name": "all", "length": "4 steps", "ema": ema},
        {"name": "heads", "length": "4 steps", "train": ["image.head", "loss"], "ema": ema},
        {"name": "plain", "length": "2 steps"},
    ]
    run = tmp_path / "run"
    words = [recipe, *WORDS[1:4], f"stages={json.dumps(stages)}", f"training.zero={zero}"]
    trained_in_turn(run, *words, ranks=[2, 1])
    averages = read_averages(Run(run).checkpoint(5), zero)
    first = weights(run, 5, zero)
    assert {name.split(".")[0] for name in averages} == {"image", "loss"}
    assert all(one.equal(first[name].reshape(one.shape)) for name, one in averages.items())
    assert read_averages(Run(run).checkpoint(10), zero) == {}
    assert xmodal.load(run, device="cpu").weights == "trained"
    model = xmodal.load(run, checkpoint="step-8", device="cpu")
    last = weights(run, 8, zero)
    assert all(
        p.equal(last[name])
        for name, p in model.method.named_parameters()
        if not name.startswith(("image.head", "loss"))
    )
