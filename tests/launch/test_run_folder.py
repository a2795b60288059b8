"""Run folders that somebody has been at."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.commands import train
from tests.launch.conftest import STEPS
from tests.run_folders import STEP, evaluations, kept_checkpoints, shown_steps, steps, weights


def rename_at(step: int, trainer: Any, *_: Any) -> None:
    """Rename the run folder before a step; to be called before `STEP`."""
    if trainer.progress.step + 1 == step and trainer.environment.is_main:
        trainer.run.path.rename(trainer.run.path.with_name("renamed"))


def test_a_killed_run_resumes_in_a_folder_with_faults(
    recipe: Path, finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "a: b #1 ü"
    given = [recipe, f"run={run}", "stages.0.name=[/foo]"]
    killed = train(*given, killed_at="xmodal.runs.run:Run.log:17")
    assert killed.code == -9
    assert {"step-6", "step-12"} <= kept_checkpoints(run)
    (run / "tokenizer.json").unlink()
    with (run / "metrics.jsonl").open("r+") as file:
        file.write("#")  # over the first line's bracket
    (run / "checkpoints" / "step-13.partial").mkdir(exist_ok=True)
    (run / "recipe.yaml.part").touch()
    done = train(*given)
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert f"Resuming from step-12 of {STEPS} ({run}/checkpoints/step-12)" in lines
    assert f"warning: {run}/tokenizer.json was missing; restored from step-12" in lines
    assert any(line.startswith(f"warning: {run}/metrics.jsonl: 1 of ") for line in lines)
    assert list(steps(run)) == list(range(2, STEPS + 1))
    assert shown_steps(run) == list(range(1, STEPS + 1))
    assert {"step-13.partial", "step-6"}.isdisjoint(kept_checkpoints(run))
    assert not (run / "recipe.yaml.part").exists()
    right, left = weights(finished, STEPS), weights(run, STEPS)
    assert all(torch.equal(right[name], left[name]) for name in right)
    assert evaluations(run).keys() == evaluations(finished).keys()


def test_a_run_folder_renamed_while_it_trains_ends_the_run(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    stopped = train(recipe, f"run={run}", before={STEP: partial(rename_at, 9)})
    assert stopped.error == (
        f"run={run} was renamed or removed during training; move it back, and rerun the same "
        "command to resume from its last checkpoint"
    )
    assert list(tmp_path.iterdir()) == [tmp_path / "renamed"]
    assert max(steps(tmp_path / "renamed")) == 8


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("lock", None, "lock is not a file, as it is in a run folder; move it away"),
        ("checkpoints", b"", "checkpoints is not a folder, as it is in a run folder"),
        ("tensorboard", b"", "tensorboard is not a folder, as it is in a run folder"),
        ("recipe.yaml", b"", "recipe.yaml holds no keys"),
        ("recipe.yaml", b"\xff\x00", "recipe.yaml is not YAML"),
        ("recipe.yaml", None, "recipe.yaml is not a file, as it is in a run folder"),
    ],
)
def test_a_fault_is_one_line(
    name: str, content: bytes | None, line: str, recipe: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    killed = train(recipe, f"run={run}", killed_at="xmodal.runs.run:Run.log:9")
    assert killed.code == -9
    (run / name).rename(run / f"{name}.before")
    if content is None:
        (run / name).mkdir()
    else:
        (run / name).write_bytes(content)
    assert line in train(recipe, f"run={run}").error
