"""Runs with options of the engine: they resume, on other ranks too, and are used as others are."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.commands import evaluate, run, train
from tests.launch.test_elastic import KILLED, assert_close, go_on
from tests.run_folders import steps, weights
from xmodal.runs.checkpoints.resharding import MASTER, saved_pieces
from xmodal.runs.run import Run


def trained(folder: Path, *words: Any, ranks: int = 2, every: int = 4) -> Path:
    given = (f"run={folder}", "data.val=null", f"checkpoints.every={every} steps")
    done = train(*words, *given, "checkpoints.keep_last=9", ranks=ranks)
    assert done.code == 0, done.err
    return folder


def bf16(recipe: Path, zero: int) -> list[Any]:
    return [recipe, f"training.zero={zero}", "training.precision=bf16_weights"]


@pytest.mark.slow
@pytest.mark.parametrize("zero", [2, 3])
def test_bf16_weights_resume(recipe: Path, tmp_path: Path, zero: int) -> None:
    words = [*bf16(recipe, zero), "data.micro_batch_size=8"]
    whole = trained(tmp_path / "whole", *words, every=8)
    go_on(tmp_path / "run", *words, ranks=(2, 2), every=8)
    assert steps(tmp_path / "run") == steps(whole)
    fp32 = trained(tmp_path / "fp32", recipe, f"training.zero={zero}")
    assert list(steps(whole).values()) == pytest.approx(list(steps(fp32).values()), rel=0.02)
    assert steps(whole) != steps(fp32)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [2, 3])
def test_bf16_weights_resume_on_other_ranks(recipe: Path, tmp_path: Path, zero: int) -> None:
    words = bf16(recipe, zero)
    whole = trained(tmp_path / "whole", *words, every=8)
    go_on(tmp_path / "run", *words, ranks=(2, 1, 4), every=8)
    found = list(steps(tmp_path / "run").values())
    assert found == pytest.approx(list(steps(whole).values()), rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [2, 3])
def test_bf16_weights_are_used_as_others(
    recipe: Path, scenes: Path, tmp_path: Path, zero: int
) -> None:
    whole = trained(tmp_path / "whole", *bf16(recipe, zero), every=24)
    exported, between = tmp_path / "exported", tmp_path / "between"
    done = run("export.py", whole, "--to", exported, "--format", "xmodal")
    assert done.code == 0, done.err
    done = run("interpolate.py", whole, whole, "--alpha", "0.5", "--to", between)
    assert done.code == 0, done.err
    for model in (whole, exported, between):
        to = tmp_path / f"measured-{model.name}"
        done = evaluate(model, "--data", scenes / "val", "--output", to)
        assert done.code == 0, done.err


@pytest.mark.slow
@pytest.mark.parametrize("zero", [2, 3])
def test_fp32_weights_of_the_optimiser_survive_other_ranks(
    recipe: Path, tmp_path: Path, zero: int
) -> None:
    # Steps so small that float32 does not move: what was rounded to bf16 would be seen.
    still = ["stages.0.optimizer={lr: 1e-30, weight_decay: 0}", "stages.0.schedule.kind=constant"]
    folder = tmp_path / "run"
    go_on(folder, *bf16(recipe, zero), *still, ranks=(2, 1, 4), every=8)
    first, last = (saved_pieces(Run(folder).checkpoint(step)) for step in (16, 24))
    rounded = 0
    for name, pieces in first.items():
        mine, others = (torch.cat(one[MASTER]) for one in (pieces, last[name]))
        torch.testing.assert_close(mine, others, rtol=0, atol=1e-20)
        rounded += int((mine.bfloat16().float() != mine).sum())
    assert rounded > 1000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("with_it", "without"),
    [
        ("{stage: 2, offload_optimizer: cpu}", "2"),
        ("{stage: 3, offload_optimizer: cpu, offload_parameters: cpu}", "3"),
        ("{stage: 1, overlap: true, bucket_size: 9999}", "1"),
        ("{stage: 0, overlap: true, bucket_size: 9999}", "0"),
    ],
)
def test_options_of_zero_change_no_run(
    recipe: Path, tmp_path: Path, with_it: str, without: str
) -> None:
    words = [recipe, "data.micro_batch_size=8"]
    plain = trained(tmp_path / "plain", *words, f"training.zero={without}", every=8)
    folder = tmp_path / "run"
    go_on(folder, *words, f"training.zero={with_it}", ranks=(2, 1, 4), every=8)
    assert assert_close(folder, plain) < 1e-5
    zero = int(without)
    mine, others = weights(folder, 24, zero), weights(plain, 24, zero)
    for name, value in others.items():
        torch.testing.assert_close(mine[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_communication_in_bf16_is_near(recipe: Path, tmp_path: Path) -> None:
    for zero in (0, 2):
        exact, rounded = (
            trained(tmp_path / f"{zero}-{sent}", recipe, f"training={values}", every=24)
            for sent in ("fp32", "bf16")
            for values in [f"{{zero: {zero}, communication: {sent}, log_every: 1}}"]
        )
        assert list(steps(rounded).values()) == pytest.approx(list(steps(exact).values()), rel=0.02)
        assert steps(rounded) != steps(exact)


@pytest.mark.slow
def test_a_run_folder_of_before_resumes(recipe: Path, tmp_path: Path) -> None:
    folder, given = tmp_path / "run", (recipe, "training.zero=2", "data.val=null")
    words = (*given, f"run={folder}", "checkpoints.every=8 steps")
    assert train(*words, ranks=2, killed_at=KILLED.format(12)).code == -9
    values = yaml.safe_load((folder / "recipe.yaml").read_text())
    kept = ("seed", "precision", "log_every", "rendezvous_timeout", "watchdog", "restarts")
    before = {key: values["training"][key] for key in kept}
    values["training"] = {**before, "zero": 2}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    done = train(*words, ranks=2)
    assert done.code == 0, done.err
    assert "Resuming from step-8" in done.out


@pytest.mark.slow
def test_a_deterministic_run_is_equal_to_the_last_bit(recipe: Path, tmp_path: Path) -> None:
    words = [recipe, "training.deterministic=true", "training.zero=2"]
    whole = trained(tmp_path / "whole", *words, every=8)
    go_on(tmp_path / "run", *words, ranks=(2, 2), every=8)
    assert steps(tmp_path / "run") == steps(whole)
