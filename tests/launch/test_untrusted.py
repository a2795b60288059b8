"""Run folders of strangers: what their files hold is never executed."""

import shutil
from pathlib import Path

import pytest

from tests.commands import evaluate, train
from tests.traps import set_trap
from xmodal.runs.checkpoints.integrity import CONTENTS, write_contents
from xmodal.runs.run import Run

KILLED = "xmodal.runs.run:Run.log:4"


def words_of(recipe: Path, run: Path, zero: int) -> list[object]:
    """Return the command that trains four steps, and saves every second."""
    words = [recipe, f"run={run}", f"training.zero={zero}", "stages.0.length=4 steps"]
    return [*words, "data.val=null", "checkpoints.every=2 steps"]


@pytest.fixture
def begun(recipe: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A run that was killed after its second step."""
    run = tmp_path / "begun"
    assert train(*words_of(recipe, run, getattr(request, "param", 0)), killed_at=KILLED).code == -9
    assert Run(run).latest() == Run(run).checkpoint(2)
    return run


def write_again(folder: Path) -> None:
    """Make files.json say that a checkpoint is as it was written."""
    (folder / CONTENTS).unlink()
    write_contents(folder, [])


STAGES = [(0, 0), *(pytest.param(n, n, marks=pytest.mark.slow) for n in (1, 2, 3))]


@pytest.mark.parametrize(("zero", "begun"), STAGES, indirect=["begun"])
def test_a_checkpoint_is_never_executed(
    zero: int, begun: Path, recipe: Path, scenes: Path, tmp_path: Path
) -> None:
    marker = tmp_path / "executed"
    for number, file in enumerate(sorted(Run(begun).checkpoint(2).glob("*.pt"))):
        run = shutil.copytree(begun, tmp_path / f"run-{number}")
        folder = Run(run).checkpoint(2)
        set_trap(folder / file.name, marker)
        write_again(folder)
        words = words_of(recipe, run, zero)
        refused = f"{folder / file.name} is refused: it asks for posix.system, "
        for ranks in (1, 2) if zero else (1,):  # those that saved it, and others
            assert refused in train(*words, ranks=ranks).error
        if zero == 3 or "model_states" in file.name:
            assert refused in evaluate(run, "--data", scenes / "val").error
        assert not marker.exists()


def test_a_checkpoint_of_another_step_is_not_resumed(begun: Path, recipe: Path) -> None:
    run = Run(begun)
    shutil.copytree(run.checkpoint(2), run.checkpoint(3))
    (run.checkpoints / "latest").write_text("step-3")
    done = train(*words_of(recipe, begun, 0))
    assert done.code == 0, done.err
    assert f"{run.checkpoint(3)} is broken (state.json is one of step 2)" in done.out
    assert "main: steps 3 to 4" in done.out
