"""Runs whose objective keeps something from step to step, killed and continued, on other ranks too.

What is kept lies in the checkpoint, and is the same whatever ranks a run continues on.
"""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.commands import evaluate, train
from tests.run_folders import steps, weights

LENGTH, EVERY = 14, 4  # steps; an epoch has six
KILLED = "xmodal.runs.run:Run.log:{}"
KEPT = {
    "averages": "method.objective={kind: global_contrastive, rho: 6.5, scale: 10}",
    "log_averages": "method.objective={kind: matryoshka, widths: [4, 64], objective: "
    "{kind: global_contrastive, rho: 6.5, scale: 10}}",
    "queue": "method.queue={size: 80, start: 0.1}",
    "numbers": "method.objective={kind: norm_softmax, classes: 192, temperature: 0.2}",
    "momentum": "method.queue={size: 80, start: 0.1, momentum: 0.9}",
}


def words(recipe: Path, kept: str, *more: str) -> list[object]:
    given = [recipe, KEPT[kept], "data.val=null", "data.lanes=4", *more]
    return [*given, f"stages.0.length={LENGTH} steps", f"checkpoints.every={EVERY} steps"]


def run_on(ranks: Sequence[int], run: Path, given: list[object]) -> None:
    """Train on each number of ranks in turn, killed before its second checkpoint, to the end."""
    for number, count in enumerate(ranks):
        last = number == len(ranks) - 1
        died = "" if last else KILLED.format(EVERY + EVERY // 2)
        done = train(*given, f"run={run}", ranks=count, killed_at=died)
        assert done.code == (0 if last else -9), done.err
        assert f"main: steps {number * EVERY + 1} to " in done.out


ZERO_3 = ["training.zero=3", "data.micro_batch_size=4"]
HALVED = ["training.zero=2", "training.precision=bf16_weights"]


@pytest.mark.parametrize(
    ("kept", "ranks", "more"),
    [
        ("averages", (1, 1), ["data.micro_batch_size=8"]),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                ("averages", (2, 2, 2), ["training.zero=2"]),
                ("averages", (2, 2), ZERO_3),
                ("log_averages", (1, 1), []),
                ("averages", (2, 2), HALVED),
                ("queue", (1, 1, 1), ["data.micro_batch_size=8"]),
                ("queue", (2, 2), ZERO_3),
                ("queue", (2, 2), HALVED),
                ("numbers", (2, 2), ZERO_3),
                ("momentum", (1, 1, 1), ["data.micro_batch_size=8"]),
                ("momentum", (2, 2), ["training.zero=1"]),
                ("momentum", (2, 2), ZERO_3),
                ("momentum", (2, 2), HALVED),
            ]
        ),
    ],
)
def test_killed_it_continues_to_the_last_bit(
    kept: str, ranks: Sequence[int], more: list[str], recipe: Path, tmp_path: Path
) -> None:
    given = words(recipe, kept, *more)
    run_on(ranks[:1], tmp_path / "whole", given)
    run_on(ranks, tmp_path / "run", given)
    assert steps(tmp_path / "run") == steps(tmp_path / "whole")
    zero = 3 if "training.zero=3" in more else 0
    ours, theirs = (weights(tmp_path / name, LENGTH, zero) for name in ("run", "whole"))
    assert any(("queue" if kept == "momentum" else kept) in name for name in ours)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 1, 3])
@pytest.mark.parametrize("kept", KEPT)
def test_it_continues_on_other_ranks(kept: str, zero: int, recipe: Path, tmp_path: Path) -> None:
    given = words(recipe, kept, f"training.zero={zero}")
    run_on((1,), tmp_path / "whole", given)
    run_on((2, 1, 4), tmp_path / "run", given)
    ours, theirs = (list(steps(tmp_path / name).values()) for name in ("run", "whole"))
    assert ours == pytest.approx(theirs, rel=1e-5)
    ours, theirs = (weights(tmp_path / name, LENGTH, zero) for name in ("run", "whole"))
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kept", KEPT)
def test_a_model_is_measured_without_what_is_kept(
    kept: str, recipe: Path, scenes: Path, tmp_path: Path
) -> None:
    given = words(recipe, kept)
    run_on((1,), tmp_path / "run", given)
    done = evaluate(tmp_path / "run", "--data", scenes / "val")
    assert done.code == 0, done.err
