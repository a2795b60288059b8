"""`launch/train.py`, whole runs of it."""

import json
import math
import shutil
from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.commands import by_launcher, train
from tests.launch.conftest import STEPS
from tests.run_folders import changed, evaluations, kept_checkpoints, steps, weights
from xmodal.phases import PHASES
from xmodal.runs.run import Run

# A small network with batch normalisation, whose statistics are to be those of all ranks.
# Its rate is low, because training amplifies what rounding makes of the order of summation.
RESNET = (
    *("method.image.name=test_resnet", "method.image.options={}"),
    *("stages.0.optimizer.lr=2e-5", "stages.0.schedule.warmup=10"),
)


def first_losses(*arguments: object, run: Path, ranks: int) -> list[float]:
    """Train 20 steps and return their losses."""
    done = train(*arguments, f"run={run}", "stages.0.length=20 steps", "data.val=null", ranks=ranks)
    assert done.code == 0, done.err
    return list(steps(run).values())


def test_a_run_folder_has_all_of_a_run(finished: Path) -> None:
    run = Run(finished)
    assert list(steps(finished)) == list(range(1, STEPS + 1))
    assert list(evaluations(finished)) == [6, 12, 18, 24]
    assert run.latest() == run.checkpoint(STEPS)
    results = json.loads(run.results.read_text())
    measured = results.pop("measured")
    assert (measured["checkpoint"], measured["data"]["samples"]) == (f"step-{STEPS}", 48)
    assert measured["protocols"] == ["relevance"]
    assert results == evaluations(finished)[STEPS]
    assert all(isinstance(value, float) for value in results.values())
    assert (finished / "report" / "index.html").is_file()
    losses = list(steps(finished).values())
    assert sum(losses[-6:]) < 0.95 * sum(losses[:6])  # it learns


def test_it_says_what_it_does_and_ends_with_the_table(finished: Path) -> None:
    printed = (finished / "printed").read_text()
    assert "main: steps 1 to 24, 32 pairs each, first batch after" in printed
    assert printed.count(f"main step 7/{STEPS}  loss ") == 1
    assert "evaluation at step 12: relevance/image_to_text/recall@1" in printed
    table = printed.partition("relevance: 48 images × 240 texts")[2]
    assert "chance" in table
    assert f"report: {finished}/report/index.html" in table


def test_tensorboard_has_every_number_and_the_retrieved_images(finished: Path) -> None:
    board = EventAccumulator(str(finished / "tensorboard")).Reload()
    every_step = {
        *("loss", "loss/contrastive", "temperature", "lr", "grad_norm", "epoch"),
        *("samples_per_second", "data_wait", "seconds_left", "bad_samples"),
        *("skipped", "dropped_parts", "read_retries", "read_wait", "stage"),
        *("samples_per_second_per_device", "tflops_per_device", "peak_memory_gb"),
        *(f"time/{name}" for name in PHASES),
    }
    metrics = set(evaluations(finished)[STEPS])
    assert set(board.Tags()["scalars"]) == every_step | metrics
    assert [event.step for event in board.Scalars("grad_norm")] == list(range(1, STEPS + 1))
    assert [event.step for event in board.Images("retrieved")] == [6, 12, 18, 24]
    assert all(event.value > 0 for event in board.Scalars("grad_norm"))


def test_the_last_checkpoints_and_the_best_are_kept(recipe: Path, tmp_path: Path) -> None:
    done = train(
        *(recipe, f"run={tmp_path}/run", "evaluation.every=1 steps", "checkpoints.keep_last=1"),
        # So fast that it forgets: the best is not the last.
        *("stages.0.optimizer.lr=0.03", "stages.0.schedule.min_lr_ratio=1"),
    )
    assert done.code == 0, done.err
    rsums = {step: row["relevance/rsum"] for step, row in evaluations(tmp_path / "run").items()}
    best = max(rsums, key=lambda step: (rsums[step], -step))
    assert best < STEPS
    assert kept_checkpoints(tmp_path / "run") == {"latest", f"step-{best}", f"step-{STEPS}"}


def test_a_finished_run_trains_nothing_and_prints_its_table_again(
    recipe: Path, finished: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    done = train(recipe, f"run={run}")
    assert done.code == 0, done.err
    table = (run / "printed").read_text().partition("relevance: ")[2].partition("report")[0]
    finished_line = (
        f"Finished: step {STEPS} of {STEPS}. For another training, name another run=DIR."
    )
    assert done.out.startswith(f"{finished_line}\nrelevance: {table}")
    assert Run(run).metrics.read_text() == Run(finished).metrics.read_text()


def test_a_resolved_recipe_trains_the_same_again(finished: Path, tmp_path: Path) -> None:
    done = train(finished / "recipe.yaml", f"run={tmp_path}/run")
    assert done.code == 0, done.err
    assert steps(tmp_path / "run") == steps(finished)


def test_one_rank_speaks(recipe: Path, tmp_path: Path) -> None:
    done = train(recipe, f"run={tmp_path}/run", "stages.0.length=2 steps", ranks=2)
    assert done.code == 0, done.err
    assert done.err == ""
    for line in ("main: steps 1 to 2", "main step 1/2", "evaluation at step 2", "report: "):
        assert done.out.count(line) == 1


def test_the_launcher_trains_on_two_processes_as_one_alone_does(
    recipe: Path, tmp_path: Path
) -> None:
    alone = first_losses(recipe, *RESNET, run=tmp_path / "alone", ranks=1)
    done = by_launcher(
        *(str(recipe), *RESNET, f"run={tmp_path}/two", "stages.0.length=20 steps", "data.val=null")
    )
    assert done.returncode == 0, done.stderr
    assert list(steps(tmp_path / "two").values()) == pytest.approx(alone, rel=1e-5)
    assert len(set(alone)) == 20


@pytest.mark.parametrize(
    "zero", [2, *(pytest.param(zero, marks=pytest.mark.slow) for zero in (0, 1, 3))]
)
def test_losses_are_equal_on_one_and_on_two_ranks(zero: int, recipe: Path, tmp_path: Path) -> None:
    alone = first_losses(recipe, *RESNET, run=tmp_path / "alone", ranks=1)
    two = first_losses(recipe, *RESNET, f"training.zero={zero}", run=tmp_path / "two", ranks=2)
    assert len(alone) == 20
    assert two == pytest.approx(alone, rel=1e-5)


@pytest.mark.parametrize(
    "objective",
    [
        ("sigmoid", "bias=-3"),
        ("margin", "margin=1"),
        ("triplet", "warmup=0.5"),
        ("mutual_information", "estimator=dv"),
    ],
    ids=lambda objective: objective[0],
)
def test_any_objective_trains_alike_on_one_and_on_two_ranks(
    objective: tuple[str, str], recipe: Path, tmp_path: Path
) -> None:
    kind, setting = objective
    given = (f"method.objective.kind={kind}", f"method.objective.{setting}")
    alone = first_losses(recipe, *given, run=tmp_path / "alone", ranks=1)
    cut = ("training.zero=2", "data.micro_batch_size=8")
    two = first_losses(recipe, *given, *cut, run=tmp_path / "two", ranks=2)
    # dv is a small difference of terms of the order of 1, to which the rounding is relative.
    assert two == pytest.approx(alone, rel=1e-5, abs=1e-5 if kind == "mutual_information" else 0)
    assert list(steps(tmp_path / "two", f"loss/{kind}").values()) == two
    assert alone[-1] < alone[0]


@pytest.mark.parametrize(
    ("batch", "micro_batch"), [(32, 4), pytest.param(64, 1, marks=pytest.mark.slow)]
)
def test_micro_batches_have_the_losses_of_the_whole_batch(
    batch: int, micro_batch: int, recipe: Path, tmp_path: Path
) -> None:
    given = (recipe, f"data.batch_size={batch}")
    whole = first_losses(*given, run=tmp_path / "whole", ranks=1)
    cut = (f"data.micro_batch_size={micro_batch}", "training.zero=3")
    two = first_losses(*given, *cut, run=tmp_path / "cut", ranks=2)
    assert len(whole) == 20
    assert two == pytest.approx(whole, rel=1e-5)
    for name in ("grad_norm", "temperature"):
        expected = list(steps(tmp_path / "whole", name).values())
        assert list(steps(tmp_path / "cut", name).values()) == pytest.approx(expected, rel=1e-4)


def test_micro_batches_in_bf16_are_near_the_whole_batch(recipe: Path, tmp_path: Path) -> None:
    given = (recipe, "training.precision=bf16")
    whole = first_losses(*given, run=tmp_path / "whole", ranks=1)
    cut = first_losses(*given, "data.micro_batch_size=8", run=tmp_path / "cut", ranks=1)
    assert cut == pytest.approx(whole, rel=1e-3)


@pytest.mark.parametrize(
    ("given", "warned"),
    [
        ([*RESNET, "data.micro_batch_size=8"], True),
        ([*RESNET, "data.micro_batch_size=16"], False),  # the whole share
        ([*RESNET, "data.micro_batch_size=8", "method.image.batch_norm=eval"], False),
        ([*RESNET, "data.micro_batch_size=8", "stages.0.train=[text, loss]"], False),
        (["data.micro_batch_size=8"], False),  # no such layer
    ],
)
def test_batch_norm_of_micro_batches_is_warned_of(
    given: list[str], warned: bool, recipe: Path, tmp_path: Path
) -> None:
    done = train(
        *(recipe, f"run={tmp_path}/run", *given, "stages.0.length=1 steps", "data.val=null"),
        ranks=2,
    )
    assert done.code == 0, done.err
    line = (
        "image.backbone.model.conv1.1 normalises 16 samples at a time, a micro-batch of all ranks, "
        "not data.batch_size=32"
    )
    assert done.out.count(line) == warned
    assert done.out.count("normalises") == warned


def test_a_locked_tower_keeps_its_weights_and_statistics(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = train(
        recipe, *RESNET, f"run={run}", "stages.0.train=[text, image.head, loss]", "data.val=null"
    )
    assert done.code == 0, done.err
    assert "image.backbone" not in changed(weights(run, 18), weights(run, 24))
    assert len(weights(run, 24)) > 50


def test_without_val_it_trains_and_keeps_checkpoints(recipe: Path, tmp_path: Path) -> None:
    done = train(recipe, f"run={tmp_path}/run", "data.val=null")
    assert done.code == 0, done.err
    assert list(steps(tmp_path / "run")) == list(range(1, STEPS + 1))
    assert kept_checkpoints(tmp_path / "run") == {"latest", "step-18", "step-24"}
    assert not Run(tmp_path / "run").results.exists()


def test_loading_processes_change_nothing(recipe: Path, finished: Path, tmp_path: Path) -> None:
    done = train(recipe, f"run={tmp_path}/run", "data.workers=2")
    assert done.code == 0, done.err
    assert steps(tmp_path / "run") == steps(finished)


def test_bf16_trains_and_is_not_fp32(recipe: Path, finished: Path, tmp_path: Path) -> None:
    done = train(recipe, f"run={tmp_path}/run", "training.precision=bf16")
    assert done.code == 0, done.err
    losses = steps(tmp_path / "run")
    assert all(math.isfinite(loss) for loss in losses.values())
    assert losses[1] == pytest.approx(steps(finished)[1], rel=0.02)
    assert losses[1] != steps(finished)[1]


def test_the_recipe_of_a_run_is_whole(finished: Path) -> None:
    saved = yaml.safe_load((finished / "recipe.yaml").read_text())
    assert saved["stages"][0]["schedule"]["warmup"] == "5 %"
