"""Models of other libraries, fine-tuned by `launch/train.py` and exported by `launch/export.py`:
each library retrieves with what it loads as xmodal does.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

import xmodal
from tests.commands import run as command
from tests.commands import train
from tests.formats.reference_libraries import References
from tests.run_folders import results
from xmodal.data.decode import decode_image
from xmodal.data.evaluation import EvaluationSet
from xmodal.data.manifest import read_manifest
from xmodal.data.reader import SampleReader
from xmodal.evaluation.config import EvaluationConfig
from xmodal.evaluation.context import EvaluationContext
from xmodal.evaluation.embedding import embed, in_evaluation
from xmodal.evaluation.gallery import Gallery
from xmodal.evaluation.protocols.registry import protocol

STEPS = 10
CPU = torch.device("cpu")
NO_TWIN = "open_clip's format cannot express method.image: it builds such by their names in timm"


@dataclass
class Measured:
    """A run's model, and the shards that it is measured on."""

    model: xmodal.Model
    dataset: EvaluationSet

    def gallery(self) -> Gallery:
        """Return our own embeddings."""
        with in_evaluation(self.model.method):
            return embed(self.model.method, self.dataset, 64, device=CPU, workers=0)[0]

    def metrics(self, gallery: Gallery) -> dict[str, float]:
        """Return the metrics of embeddings."""
        relevance = self.dataset.reader.manifest.relevance
        measured = (self.model.method, self.dataset, gallery, relevance)
        context = EvaluationContext(*measured, EvaluationConfig(), CPU)
        return protocol("relevance").measure(context)


def measured(run: Path, shards: Path) -> Measured:
    model, reader = xmodal.load(run, device=CPU), SampleReader(read_manifest(str(shards)))
    return Measured(model, EvaluationSet(reader, model.transform, model.tokenizer))


def write_data(dataset: EvaluationSet, folder: Path) -> Path:
    """Write images as any library opens them, with the captions in the order of embeddings."""
    folder.mkdir()
    captions: list[str] = []
    for number in range(len(dataset.reader)):
        sample = dataset.reader[number]
        Image.fromarray(decode_image(sample.image())).save(folder / f"{number:04d}.png")
        captions += sample.captions()
    (folder / "captions.json").write_text(json.dumps(captions))
    return folder


def fine_tune(recipe: str, source: Path, scenes: Path, run: Path, *keys: str) -> None:
    done = train(
        recipe,
        f"run={run}",
        f"method.pretrained={source}",
        *(f"data.{split}={scenes}/{split}" for split in ("train", "val")),
        *("data.batch_size=32", "data.workers=0", "training.log_every=1"),
        *(f"stages.0.length={STEPS} steps", "stages.0.optimizer.lr=1e-3"),
        *keys,
    )
    assert done.code == 0, done.err
    assert "[transformers]" not in done.out + done.err
    assert "pretrained tensors of method.image" in done.out


def farthest(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest relative difference of embeddings."""
    return float(((ours - theirs).norm(dim=1) / ours.norm(dim=1)).max())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "script", "name", "keys", "formats"),
    [
        ("finetune_clip", "hugging_face", "clip", (), ("hf", "sentence-transformers")),
        (
            "finetune_clip",
            "hugging_face",
            "clip",
            ("method.image.preprocessing.resizer=pillow",),
            ("open_clip",),
        ),
        ("finetune_siglip", "hugging_face", "siglip", (), ("hf", "sentence-transformers")),
        ("finetune_siglip", "hugging_face", "siglip2", (), ("hf", "sentence-transformers")),
        ("finetune_siglip", "open_clip_models", "siglip", (), ("open_clip",)),
    ],
)
def test_it_retrieves_the_same(
    recipe: str,
    script: str,
    name: str,
    keys: tuple[str, ...],
    formats: tuple[str, ...],
    references: References,
    scenes: Path,
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    # Captions are told apart by all of their letters.
    context = "method.text.context=96"
    fine_tune(recipe, references.folder(script) / name, scenes, run, context, *keys)
    ours = measured(run, scenes / "val")
    gallery = ours.gallery()
    metrics = ours.metrics(gallery)
    assert metrics.items() <= results(run).items()
    data = write_data(ours.dataset, tmp_path / "data")
    for library in formats:
        done = command("export.py", run, "--to", tmp_path / library, "--format", library)
        assert done.code == 0, done.err
        folder = references.folder("embedded_captions", library, tmp_path / library, data)
        theirs = load_file(folder / "embeddings.safetensors")
        for side in ("images", "texts"):
            assert farthest(getattr(gallery, side), theirs[side]) < 1e-5, (library, side)
        assert ours.metrics(replace(gallery, images=theirs["images"], texts=theirs["texts"])) == (
            metrics
        ), library
        check_scale(ours.model, theirs, library)


def check_scale(model: xmodal.Model, theirs: dict[str, Tensor], library: str) -> None:
    """Compare scale and bias of scores, which sentence-transformers has not."""
    weights = model.method.state_dict()
    for name, one in (("logit_scale", "loss.log_scale"), ("logit_bias", "loss.bias")):
        if one in weights and library != "sentence-transformers":
            assert theirs[name].equal(weights[one].reshape(1)), (library, name)


@pytest.mark.slow
def test_a_siglip_of_no_size_of_timms_is_one_line_for_open_clip(
    references: References, scenes: Path, tmp_path: Path
) -> None:
    source = references.folder("hugging_face") / "siglip"
    fine_tune("finetune_siglip", source, scenes, tmp_path / "run", "stages.0.length=1 steps")
    to = tmp_path / "new"
    done = command("export.py", tmp_path / "run", "--to", to, "--format", "open_clip")
    assert NO_TWIN in done.error
    assert not to.exists()
