"""Runs of `launch/train.py` whose encoders are compiled and checkpointed."""

from pathlib import Path

import pytest

from tests.commands import evaluate, train
from tests.run_folders import changed, results, steps, weights
from xmodal.runs.run import Run

# Batch and micro-batches, so that the gradient cache runs.
GIVEN = (
    *("data.micro_batch_size=8", "method.text.dropout=0.1"),
    *("stages.0.length=6 steps", "checkpoints.every=3 steps", "evaluation.every=3 steps"),
)
PREPARED = ("training.compile=true", "training.checkpoint_activations=selective")


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_prepared_run_is_a_plain_one_and_resumes(recipe: Path, tmp_path: Path) -> None:
    plain, prepared, resumed = (tmp_path / name for name in ("plain", "prepared", "resumed"))
    assert train(recipe, *GIVEN, f"run={plain}", ranks=2).code == 0
    done = train(recipe, *GIVEN, *PREPARED, f"run={prepared}", ranks=2, seconds=600)
    assert done.code == 0, done.err
    line = "2 blocks, compiled at the first step and checkpointed selectively"
    assert f"image.backbone: {line}" in done.out
    assert f"text.backbone: {line}" in done.out
    assert list(steps(prepared).values()) == pytest.approx(list(steps(plain).values()), rel=1e-5)
    ours, theirs = weights(prepared, 6), weights(plain, 6)
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        assert (ours[name] - value).abs().max() < 1e-3, name
    measured = results(prepared)
    assert evaluate(prepared).code == 0
    assert results(prepared) == measured

    given = (recipe, *GIVEN, *PREPARED, f"run={resumed}")
    killed_at = "xmodal.training.trainer:Trainer._log:5"
    assert train(*given, ranks=2, seconds=600, killed_at=killed_at).code == -9
    assert Run(resumed).latest() is not None
    assert train(*given, ranks=2, seconds=600).code == 0
    assert steps(resumed) == steps(prepared)
    assert not changed(weights(resumed, 6), ours)


# Of small weights, which stay on every rank after the first step, and of weights that do not.
@pytest.mark.parametrize(
    ("ranks", "zero"),
    [
        (1, "3"),
        pytest.param(2, "3", marks=pytest.mark.slow),
        pytest.param(1, "{stage: 3, persistence_threshold: 0}", marks=pytest.mark.slow),
        pytest.param(2, "{stage: 3, persistence_threshold: 0}", marks=pytest.mark.slow),
        pytest.param(
            2,
            "{stage: 3, persistence_threshold: 0, max_reuse_distance: 0, max_live_parameters: 0}",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_checkpointed_blocks_of_zero_3(ranks: int, zero: str, recipe: Path, tmp_path: Path) -> None:
    given = ["stages.0.length=4 steps", "data.val=null"]
    options = [f"training.zero={zero}", "training.checkpoint_activations=blocks"]
    for name, more in (("plain", []), ("checkpointed", options)):
        done = train(recipe, *given, *more, f"run={tmp_path / name}", ranks=ranks)
        assert done.code == 0, done.err
    ours, theirs = (list(steps(tmp_path / name).values()) for name in ("checkpointed", "plain"))
    assert ours == pytest.approx(theirs, rel=1e-5)
