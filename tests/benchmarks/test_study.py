"""Studies: their recipes can be read, and a study that was interrupted is resumed."""

import os
import sys
from contextlib import redirect_stdout, suppress
from io import StringIO
from pathlib import Path

import numpy as np
import pytest

from benchmarks import study as command
from benchmarks.studies.study import Arm, DataSet, Study, as_it_is
from benchmarks.trained import Trial
from tests.processes import on_ranks
from tests.shard_sets import described, write_shards
from tests.training_sets import npy
from xmodal.assembly.session import Session
from xmodal.errors import UserError

RECIPE = """
data: {batch_size: 8, workers: 0}
method:
  kind: clip
  image: {kind: features, features: 6}
  text: {kind: features, features: 4}
  embedding: 4
stages:
  - {name: first, length: 4 steps}
  - {name: second, length: 12 steps}
evaluation: {every: 4 steps}
checkpoints: {every: 0, keep_last: 9, best: rsum}
"""


@pytest.mark.parametrize("name", command.NAMES)
def test_studies_have_recipes_and_rows_that_exist(name: str, tmp_path: Path) -> None:
    study = command.load_study(name)
    for data in study.sets.values():
        for arm in data.arms or study.arms:
            trial = Trial(study, data, study.arms[arm], 0, tmp_path / "run", [])
            assert trial.recipe(*data.test).data.val != trial.recipe().data.val
    labels = tuple(arm.label for arm in study.arms.values())
    assert all(row.startswith(labels) for pair in study.differences for row in pair)
    assert set(study.compared) <= set(study.columns)
    assert study.quick in study.sets


def tiny_study(folder: Path) -> Study:
    """A study of one set, with an arm of each kind."""
    random = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        texts = random.normal(size=(24, 4)).astype(np.float32)
        images = np.concatenate([texts, texts[:, :2]], 1)
        samples = {
            f"{number:02}": {
                "image.npy": npy(images[number]),
                "text.npy": npy(texts[number][None]),
                "json": described([], image_id=str(number)),
            }
            for number in range(24)
        }
        write_shards(folder / split, [samples])
    (folder / "tiny.yaml").write_text(RECIPE)
    recipe = str(folder / "tiny")
    data = DataSet(
        [f"data.train={folder}/train", f"data.val={folder}/val"], [f"data.val={folder}/test"]
    )
    arms = {
        "untrained": Arm("untrained", recipe, fit=as_it_is, seeds=1),
        "best": Arm("best", recipe, ["stages.0.optimizer.lr=0.01"]),
        "stages": Arm("stages", recipe, measured="stages"),
    }
    columns = {"rsum": "rsum", "steps": "steps"}
    return Study({"set": data}, arms, columns, [("best", "untrained")], ["rsum"], quick="set")


def study_that_is_interrupted(folder: Path) -> tuple[str, str, float, list[int], str]:
    """Run a study three times: it is interrupted, then resumed, then complete."""
    study, train, lengths = tiny_study(folder), Session.train, []
    command.load_study = lambda _: study  # type: ignore[assignment]
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")

    def interrupted(session: Session) -> None:
        report = session.report
        assert report is not None

        def at_step(step: int, total: int, metrics: dict[str, float]) -> None:
            report(step, total, metrics)
            if "stages-0" in session.recipe.run and step == 8:
                raise KeyboardInterrupt

        session.report = at_step
        train(session)

    def counted(session: Session) -> None:
        lengths.append(session.timeline.total - session.progress.step)
        train(session)

    Session.train = interrupted  # type: ignore[method-assign]
    with suppress(KeyboardInterrupt):
        run(folder)
    trial = Trial(study, study.sets["set"], study.arms["stages"], 0, folder / "set/stages-0", [])
    seconds = trial.seconds
    Session.train = counted  # type: ignore[method-assign]
    resumed = run(folder)
    assert trial.seconds > seconds
    complete = run(folder)
    try:
        run(folder, "--override", "data.batch_size=12")
    except UserError as error:
        return resumed, complete, seconds, lengths, str(error)
    raise AssertionError


def run(folder: Path, *options: str) -> str:
    """Run the command in this process; return its tables."""
    sys.argv = ["study", "matching", "--seeds", "2", "--runs", str(folder), *options]
    with redirect_stdout(StringIO()) as printed:
        command.main()
    return printed.getvalue().partition("\nset\n")[2]


def test_a_study_that_was_interrupted_is_resumed(tmp_path: Path) -> None:
    ((resumed, complete, seconds, lengths, error),) = on_ranks(
        1, study_that_is_interrupted, tmp_path
    )
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in resumed.splitlines()
        if "|" in line
    ]
    assert [row[0] for row in rows] == [
        *("", "---", "untrained", "best", "stages, first", "stages, second"),
        *("difference", "---", "best − untrained"),
    ]
    assert rows[4][2] == "4.0 ± 0.0"  # steps at the end of the first stage
    assert rows[5][2] == "16.0 ± 0.0"
    assert "2 seeds" in resumed
    assert seconds > 0
    assert lengths == [
        8,
        16,
    ]  # the first seed is resumed, the second trained; the arm before is not
    assert complete == resumed
    assert "best-0 was begun with another recipe (data.batch_size" in error
    assert not list(tmp_path.glob("set/*/checkpoints/step-*"))


@pytest.mark.parametrize(
    ("words", "seeds"), [((), 5), (("--quick",), 1), (("--quick", "--seeds", "3"), 3)]
)
def test_seeds_are_those_that_are_asked_for(
    words: tuple[str, ...], seeds: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["study", "negatives", *words])
    assert command.read_arguments()[0].seeds == seeds


@pytest.mark.parametrize("seeds", ["0", "-1", "three"])
def test_no_number_of_seeds_is_refused(seeds: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["study", "negatives", "--seeds", seeds])
    with pytest.raises(SystemExit, match="2"):
        command.read_arguments()


def test_a_quick_study_has_the_lengths_that_are_asked_for(tmp_path: Path) -> None:
    study = command.load_study("negatives")
    data, arm = study.sets["scenes"], study.arms["plain"]
    for words, steps in (([], 20), (["stages.0.length=3 steps"], 3)):
        trial = Trial(study, data, arm, 0, tmp_path / "run", words, quick=True)
        assert str(trial.recipe().stages[0].length) == f"{steps} steps"
