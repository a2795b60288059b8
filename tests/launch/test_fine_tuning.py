"""Recipes that fine-tune a pretrained CLIP, and the documented way to unfreeze a model."""

from pathlib import Path

import pytest
import torch
import yaml

import xmodal
from tests.commands import evaluate, train
from tests.commands import run as command
from tests.documented import texts
from tests.pretrained_models import write_clip, write_pretrained
from tests.run_folders import results, steps, weights
from xmodal.formats import hugging_face
from xmodal.models.adapters import base_weights


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("models") / "clip")


def fine_tune(name: str, source: Path, scenes: Path, run: Path, *given: str) -> xmodal.Model:
    data = [f"data.val={scenes}/val", "data.batch_size=16", "data.micro_batch_size=8"]
    small = ["stages.0.length=6 steps", "training.log_every=1", "data.workers=0"]
    done = train(name, f"run={run}", f"method.pretrained={source}", *data, *small, *given)
    assert done.code == 0, done.err
    assert "pretrained tensors of method.image" in done.out
    return xmodal.load(run, device="cpu")


@pytest.mark.slow
def test_adapters_of_a_pretrained_clip_leave_its_weights(
    source: Path, scenes: Path, tmp_path: Path
) -> None:
    given = (f"data.train={scenes}/train", "training.zero=2")
    model = fine_tune("lora_clip", source, scenes, tmp_path / "run", *given)
    before, after = hugging_face.read(source).weights, base_weights(model.method)
    towers = [name for name in after if ".backbone." in name]
    assert len(towers) > 50
    assert all(after[name].equal(before[name]) for name in towers)
    assert not after["image.head.1.weight"].equal(before["image.head.1.weight"])
    trained = [p for n, p in model.method.named_parameters() if ".lora_B" in n]
    assert len(trained) == 2 * 2 * 4
    assert all(parameter.abs().max() > 0 for parameter in trained)


@pytest.mark.slow
def test_what_is_exported_is_measured_as_its_run(scenes: Path, tmp_path: Path) -> None:
    source, run = write_pretrained(tmp_path / "source"), tmp_path / "run"
    given = (f"data.train={scenes}/train", "stages.0.optimizer.lr=2e-3")
    fine_tune("finetune_clip", source, scenes, run, *given)
    before = evaluate(source, "--data", scenes / "val", "--output", tmp_path / "before")
    assert results(before.folder) != results(run)
    for to in ("open_clip", "xmodal"):  # hf resizes by torch, and this model by Pillow
        folder = tmp_path / "models" / to
        assert command("export.py", run, "--to", folder, "--format", to).code == 0
        done = evaluate(folder, "--data", scenes / "val", "--output", tmp_path / "results" / to)
        assert results(done.folder) == pytest.approx(results(run), abs=1e-4), to


@pytest.mark.slow
def test_a_classifier_is_fine_tuned_on_the_names_of_its_classes(
    source: Path, scenes: Path, tmp_path: Path
) -> None:
    sets = f"data.train.0.url={scenes}/train"
    fine_tune(
        "flyp",
        source,
        scenes,
        tmp_path / "run",
        sets,
        "stages.0.length=60 steps",
        "stages.0.optimizer.lr=2e-3",
    )
    found = results(tmp_path / "run")
    assert found["zero-shot/num_classes"] > 2
    losses = list(steps(tmp_path / "run").values())
    assert sum(losses[-10:]) < sum(losses[:10]), losses


@pytest.mark.slow
def test_a_pretrained_clip_is_fine_tuned_beside_false_texts(
    source: Path, scenes: Path, tmp_path: Path
) -> None:
    small = (
        f"data.train={scenes}/train",
        "stages.0.length=60 steps",
        "stages.0.optimizer.lr=2e-3",
    )
    found = {}
    for name, negatives in (("alone", "null"), ("beside", "{texts: 1}")):
        given = (f"data.negatives={negatives}", *small)
        fine_tune("negclip", source, scenes, tmp_path / name, *given)
        found[name] = list(steps(tmp_path / name).values())
    losses = found["beside"]
    assert losses[0] > found["alone"][0]  # it has negatives more
    assert sum(losses[-10:]) < sum(losses[:10])


@pytest.mark.slow
def test_a_model_unfreezes_stage_by_stage(recipe: Path, tmp_path: Path) -> None:
    page = next(text for text in texts() if text.name == "docs/fine_tuning.md")
    code = next(code for title, code in page.code("yaml") if title == "unfreezing.yaml")
    stages = yaml.safe_load(code)["stages"]
    stages[1]["lock"] = {"image": 2, "text": 2}  # the small towers have three groups each
    values = yaml.safe_load(recipe.read_text())
    values["stages"] = [stage | {"length": "2 steps"} for stage in stages]
    path = tmp_path / "unfreezing.yaml"
    path.write_text(yaml.safe_dump(values))
    done = train(
        path, f"run={tmp_path}/run", "checkpoints.every=2 steps", "checkpoints.keep_last=9"
    )
    assert done.code == 0, done.err
    first, second, third = (weights(tmp_path / "run", step) for step in (2, 4, 6))

    def moved(old: dict[str, torch.Tensor], new: dict[str, torch.Tensor]) -> set[str]:
        return {name for name in old if not old[name].equal(new[name])}

    late = {"image.backbone.model.blocks.1", "image.backbone.model.norm", "image.head", "loss"}
    late |= {"text.backbone.blocks.layers.1", "text.backbone.blocks.norm", "text.head"}
    assert all(name.startswith(tuple(late)) for name in moved(first, second))
    assert "text.backbone.blocks.layers.1.linear1.weight" in moved(first, second)
    embeddings = {"image.backbone.model.pos_embed", "text.backbone.words.weight"}
    assert embeddings.isdisjoint(moved(second, third))
    assert "image.backbone.model.blocks.0.attn.qkv.weight" in moved(second, third)
