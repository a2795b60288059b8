"""A student of a run's stored embeddings: on any ranks, killed and resumed, and refused."""

import shutil
from pathlib import Path

import pytest

import xmodal
from tests.commands import train
from tests.run_folders import steps
from xmodal.runs.run import Run

KILLED = "xmodal.runs.run:Run.log:9"  # as it logs its ninth step


def words(recipe: Path, teacher: Path, store: Path, run: Path) -> list[str]:
    """Return the words of a command that trains a student."""
    return [
        str(recipe),
        f"run={run}",
        f"data.teacher={{source: {teacher}, features: {store}, views: 2}}",
        "data.crop=[0.5, 1]",
        "data.flip=true",
        "data.val=null",
        "method.kind=distilled",
        "method.embedding=32",
        "method.teacher_embedding=64",
        "stages.0.losses={contrastive: 0.5, affinity: 0.5, features: 1}",
        "stages.0.length=15 steps",
    ]


def test_it_is_the_same_on_other_ranks_after_a_kill_and_learns_from_one_teacher_alone(
    recipe: Path, finished: Path, tmp_path: Path
) -> None:
    teacher, store = tmp_path / "teacher", tmp_path / "store"
    shutil.copytree(finished, teacher)
    whole, run = (words(recipe, teacher, store, tmp_path / name) for name in ("whole", "run"))
    done = train(*whole)
    assert done.code == 0, done.err
    assert "computing features of" in done.out
    assert train(*run, ranks=2, killed_at=KILLED).code == -9

    latest = Run(teacher).checkpoints / "latest"
    newest = latest.read_text()
    others = {path.name for path in Run(teacher).checkpoints.glob("step-*")} - {newest.strip()}
    latest.write_text(others.pop())
    assert train(*run).error == (
        f"data.teacher has other weights than up to step 6 of run={tmp_path}/run; restore its "
        "checkpoint, or name another run=DIR"
    )
    latest.write_text(newest)
    teacher = teacher.rename(tmp_path / "moved")

    done = train(*words(recipe, teacher, store, tmp_path / "run"))
    assert done.code == 0, done.err
    assert "Resuming from step-6 of 15" in done.out
    assert "computing features of" not in done.out
    for name in ("loss", "loss/contrastive", "loss/affinity", "loss/features"):
        ours, theirs = (steps(tmp_path / each, name) for each in ("run", "whole"))
        assert list(ours.values()) == pytest.approx(list(theirs.values()), rel=1e-4)
    assert theirs[15] < theirs[1]
    assert xmodal.load(tmp_path / "run").encode_texts("a circle").shape == (1, 32)


def test_a_teacher_of_another_width_makes_nothing(
    recipe: Path, finished: Path, tmp_path: Path
) -> None:
    done = train(
        *words(recipe, finished, tmp_path / "store", tmp_path / "run"),
        "method.teacher_embedding=512",
    )
    assert done.error == (
        f"method.teacher_embedding=512, but the teacher {finished} embeds in 64 dimensions; write "
        "method.teacher_embedding=64"
    )
    assert not list(tmp_path.iterdir())
