"""The recipes of the methods, each with all its stages, on tiny encoders and shards."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.commands import train
from tests.launch.methods import CHANGES, IMAGE, LENGTH, LOSSES, STAGES, TEXT, length
from tests.run_folders import changed, evaluations, steps, weights
from tests.shard_sets import encode, write_shards
from tests.training_sets import npy
from xmodal.runs.run import Run


@pytest.mark.parametrize("method", CHANGES)
def test_all_stages_run_from_one_command_alike_on_two_processes(
    method: str, given: Callable[[str], list[str]], tmp_path: Path
) -> None:
    runs = {}
    for ranks in (1, 2):
        runs[ranks] = tmp_path / str(ranks)
        done = train(*given(method), f"run={runs[ranks]}", ranks=ranks)
        assert done.code == 0, done.err
    one, two = (list(steps(run).values())[:LOSSES] for run in runs.values())
    assert len(one) == LOSSES
    # Cosines pass through 0: differences of these are measured by what a cosine can be.
    zero = 1e-6 if method in {"simsiam", "ptf_simcm"} else 0
    assert two == pytest.approx(one, rel=1e-5, abs=zero)
    check_of_stages(method, runs[1])


def check_of_stages(method: str, run: Path) -> None:
    """Each stage trains its parts, minimises its losses and is told of by its name."""
    stages, size = STAGES[method], length(method)
    before = {}
    rows = [row for row in Run(run).history() if "loss" in row]
    assert len(rows) == size * len(stages)
    for number, stage in enumerate(stages):
        of_stage = rows[number * size : (number + 1) * size]
        assert {row["stage"] for row in of_stage} == {stage.name}
        shown = {name for row in of_stage for name in row if name.startswith("loss/")}
        assert shown == {f"loss/{name}" for name in stage.losses}
        after = weights(run, size * (number + 1))
        if number:
            parts = {name.split(".")[0] for name in changed(before, after)}
            trained = {"image", "text"} if "*" in stage.train else set()
            trained |= {name.split(".")[0] for name in stage.train} - {"*"}
            # A metric network is marked as trained by the stage that begins it.
            marks = {"metric_trained"} if stage.name == "metric" else set()
            assert parts - {"classifier"} == (trained | marks) - {"classifier"}
        before = after
    assert set(evaluations(run)) == {size * (number + 1) for number in range(len(stages))}


@pytest.mark.parametrize(
    ("method", "stage"),
    [
        (method, stage)
        if (method, stage) == ("uncsm", 2)
        else pytest.param(method, stage, marks=pytest.mark.slow)
        for method in CHANGES
        for stage in range(len(STAGES[method]))
    ],
)
def test_killed_in_any_stage_it_goes_on_there(
    method: str, stage: int, given: Callable[[str], list[str]], tmp_path: Path
) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    assert train(*given(method), f"run={whole}").code == 0
    # After a checkpoint inside the stage, or at its very beginning.
    killed_at = f"xmodal.training.trainer:Trainer._step:{length(method) * stage + 6}"
    assert train(*given(method), f"run={run}", killed_at=killed_at).code == -9
    done = train(*given(method), f"run={run}")
    assert done.code == 0, done.err
    assert steps(run) == steps(whole)
    assert evaluations(run) == evaluations(whole)
    last = max(steps(run))
    ours, theirs = weights(run, last), weights(whole, last)
    assert all(ours[name].equal(theirs[name]) for name in theirs)


def test_what_a_stage_requires_decides_whether_the_next_begins(
    given: Callable[[str], list[str]], tmp_path: Path
) -> None:
    run = f"run={tmp_path}/run"
    refused = "stages.2.requires={metric_accuracy: {at_least: 2}}"
    done = train(*given("uncsm"), run, refused)
    assert done.code == 2
    last = done.err.splitlines()[-1]
    assert last.startswith("error: stage metric ended with metric_accuracy 0.")
    assert "which must be at least 2: the run stops here, its checkpoint kept" in last
    assert max(steps(tmp_path / "run")) == 3 * LENGTH
    assert "the run stops here" in train(*given("uncsm"), run, refused).err
    # Another number of that stage's end will do, by its whole name or without its protocol.
    other = "stages.2.requires={class-by-distance/map: {at_least: 1}, map@50: {at_least: 1}}"
    assert train(*given("uncsm"), run, other).code == 0


def test_a_collapsed_run_stops_with_advice(
    given: Callable[[str], list[str]], tmp_path: Path
) -> None:
    grey = encode(np.full((32, 32, 3), 128, np.uint8))
    write_shards(tmp_path / "same", [{f"{number:02d}": {"png": grey} for number in range(32)}])
    done = train(
        *given("simsiam"),
        *(f"run={tmp_path}/run", f"data.train={tmp_path}/same", "data.val=null"),
        *("data.augment=null", "method.collapse.readings=4"),
        ranks=2,
    )
    assert done.code == 2
    assert done.error.startswith("step 4, stage main: embeddings have collapsed into one: channel_")
    assert max(steps(tmp_path / "run")) == 4


def test_a_requirement_of_nothing_is_told_at_once(
    given: Callable[[str], list[str]], tmp_path: Path
) -> None:
    for name in ("acuracy", "class/mapp", "gap/rmg"):
        requirement = f"stages.3.requires={{{name}: {{at_least: 0}}}}"
        done = train(*given("uncsm"), f"run={tmp_path}/run", requirement)
        assert (
            f"stage joint requires {name}, which is no loss, no monitor and no metric" in done.error
        )


def test_what_data_val_cannot_be_measured_by_is_told_at_once(
    given: Callable[[str], list[str]], tmp_path: Path
) -> None:
    sample = {"image.npy": npy(np.ones(IMAGE)), "text.npy": npy(np.ones((1, TEXT)))}
    write_shards(tmp_path / "bare", [{"0": sample}])
    done = train(*given("uncsm"), f"run={tmp_path}/run", f"data.val={tmp_path}/bare")
    assert "has no labels in its samples' JSON" in done.error


def test_data_begin_once_more_where_a_stage_says_so(
    given: Callable[[str], list[str]], tmp_path: Path
) -> None:
    """Where nothing is learned, two stages of the same samples have the same losses."""
    stages = [
        {"name": name, "length": "5 steps", "data": data, "losses": {"contrastive": 1},
         "optimizer": {"kind": "sgd", "lr": 1e-30}}
        for name, data in (("a", "continue"), ("b", "restart"), ("c", "continue"))
    ]  # fmt: skip
    words = [word for word in given("uncsm") if not word.startswith("stages.")]
    done = train(*words, f"run={tmp_path}/run", f"stages={stages!r}")
    assert done.code == 0, done.err
    losses = list(steps(tmp_path / "run").values())
    assert losses[:5] == losses[5:10]
    assert losses[10:] != losses[:5]


def test_a_method_of_classes_needs_labels(
    given: Callable[[str], list[str]], tmp_path: Path
) -> None:
    sample = {"image.npy": npy(np.ones(IMAGE)), "text.npy": npy(np.ones((1, TEXT)))}
    write_shards(tmp_path / "bare", [{"0": sample}])
    done = train(*given("uncsm"), f"run={tmp_path}/run", f"data.train={tmp_path}/bare")
    assert done.error == (
        f"uncsm learns from classes, and the first samples of {tmp_path}/bare have no `labels` in "
        "their JSON; use shards with labels"
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            "stages.1.losses={hardst: 1}",
            "stages.1.losses.hardst is not a loss of the method (did you",
        ),
        ("stages.1.losses={}", "stages.1.losses is missing: the method has several (sum, hardest"),
        ("method.text_head={}\tmethod.embedding=8\tmethod.image_head=null", "method.image_head is"),
    ],
)
def test_wrong_losses_and_heads_are_told(
    change: str, said: str, given: Callable[[str], list[str]], tmp_path: Path
) -> None:
    done = train(*given("vsepp"), f"run={tmp_path}/run", *change.split("\t"))
    assert said in done.error
