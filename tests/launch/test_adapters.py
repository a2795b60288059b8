"""Runs that train adapters: under every ZeRO stage, resumed, evaluated, loaded, merged."""

from pathlib import Path

import pytest
import torch

import xmodal
from tests.commands import evaluate, train
from tests.launch.conftest import STEPS
from tests.run_folders import evaluations, results, steps, weights
from xmodal.assembly.build import build_method
from xmodal.models.adapters import base_weights, merge_adapters

KILLED = "xmodal.runs.run:Run.log:10"
GIVEN = (
    "method.image.lora={rank: 4, dropout: 0.1, dora: true}",
    "method.text.lora={rank: 4}",
    "stages.0.optimizer.layer_decay=0.8",
    "data.micro_batch_size=8",
)


def trained(recipe: Path, run: Path, zero: int, ranks: int, *, killed: bool = False) -> Path:
    given = (recipe, f"run={run}", f"training.zero={zero}", *GIVEN)
    if killed:
        assert train(*given, ranks=ranks, killed_at=KILLED).code == -9
    done = train(*given, ranks=ranks)
    assert done.code == 0, done.err
    assert not killed or "Resuming from step-6" in done.out
    return run


def assert_only_adapters_changed(run: Path) -> None:
    """Weights below adapters stay as they were built; adapters and heads change."""
    model = xmodal.load(run, device="cpu")
    vocabulary = model.tokenizer.vocabulary
    before = build_method(model.recipe, vocabulary, torch.device("cpu")).state_dict()
    after = model.method.state_dict()
    assert before.keys() == after.keys()
    same = {name for name in before if before[name].equal(after[name])}
    assert {name for name in before if ".backbone." in name and ".lora_" not in name} == same


@pytest.mark.parametrize(
    ("zero", "ranks"),
    [
        (2, 2),
        *(pytest.param(zero, ranks, marks=pytest.mark.slow) for zero, ranks in
          [(0, 1), (0, 2), (1, 2), (3, 1), (3, 2)]),
    ],
)  # fmt: skip
def test_a_run_with_adapters_resumes_exactly_and_leaves_the_weights(
    zero: int, ranks: int, recipe: Path, tmp_path: Path
) -> None:
    whole = trained(recipe, tmp_path / "whole", zero, ranks)
    resumed = trained(recipe, tmp_path / "resumed", zero, ranks, killed=True)
    assert steps(resumed) == steps(whole)
    assert evaluations(resumed) == evaluations(whole)
    first, second = (weights(run, STEPS, zero) for run in (whole, resumed))
    assert all(tensor.equal(second[name]) for name, tensor in first.items())
    assert_only_adapters_changed(whole)
    losses = list(steps(whole).values())
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_losses_are_equal_under_every_zero_stage(recipe: Path, tmp_path: Path) -> None:
    runs = [trained(recipe, tmp_path / f"{zero}", zero, 2) for zero in range(4)]
    expected = list(steps(runs[0]).values())
    for run in runs[1:]:
        assert list(steps(run).values()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_a_run_with_adapters_is_evaluated_loaded_merged_and_saved_alone(
    recipe: Path, tmp_path: Path
) -> None:
    run = trained(recipe, tmp_path / "run", 0, 1)
    own = results(run)
    again = evaluate(run, "--output", tmp_path / "again")
    assert again.code == 0, again.err
    assert results(tmp_path / "again") == own
    model = xmodal.load(run, device="cpu")
    images = torch.randint(0, 255, (4, 3, 40, 40), dtype=torch.uint8)
    unmerged = [model.encode_images(images), model.encode_texts(["a red circle", "two squares"])]
    folders = model.save_adapters(tmp_path / "adapters")
    assert [folder.name for folder in folders] == ["image", "text"]
    with pytest.raises(xmodal.UserError, match="exists; name another folder"):
        model.save_adapters(tmp_path / "adapters")
    names = list(base_weights(model.method))
    merge_adapters(model.method)
    assert list(model.method.state_dict()) == names
    merged = [model.encode_images(images), model.encode_texts(["a red circle", "two squares"])]
    for one, other in zip(merged, unmerged, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    with pytest.raises(xmodal.UserError, match="the model has no adapters"):
        model.save_adapters(tmp_path / "more")
    # Another run begins with them.
    lora = f"method.image.lora={{rank: 4, dora: true, weights: {folders[0]}}}"
    done = train(recipe, f"run={tmp_path}/next", lora, "stages.0.length=1 steps", "data.val=null")
    assert done.code == 0, done.err
    folders[0].rename(tmp_path / "elsewhere")
    assert xmodal.load(tmp_path / "next", device="cpu").encode_images(images).isfinite().all()


@pytest.mark.slow
def test_rates_fall_by_layer_and_groups_are_locked(recipe: Path, tmp_path: Path) -> None:
    stage = ("stages.0.lock={image: 2, text: [norms]}", "stages.0.optimizer.layer_decay=0.5")
    given = (recipe, f"run={tmp_path}/run", "data.val=null", *stage)
    done = train(*given)
    assert done.code == 0, done.err
    model = xmodal.load(tmp_path / "run", device="cpu")
    before = build_method(model.recipe, model.tokenizer.vocabulary, torch.device("cpu"))
    old, new = before.state_dict(), model.method.state_dict()
    same = {
        name.removeprefix("image.backbone.model.") for name in old if old[name].equal(new[name])
    }
    image = {n for n, _ in before.image.backbone.model.named_parameters()}
    stem = {"cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}
    assert same & image == stem | {name for name in image if name.startswith("blocks.0.")}
    assert {name for name in same if name.startswith("text.")} == {
        f"text.backbone.blocks.{name}.{kind}"
        for name in ("layers.0.norm1", "layers.0.norm2", "layers.1.norm1", "layers.1.norm2", "norm")
        for kind in ("weight", "bias")
    }
    mistaken = train(recipe, f"run={tmp_path}/other", "stages.0.lock.image=9")
    assert "lock.image: the tower has 3 groups (embeddings, blocks.0 to " in mistaken.error
