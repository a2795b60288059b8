"""What the tests of the commands share: tiny shards, a tiny recipe, and one finished run of it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml

from shards.build import build
from tests.commands import embed, train
from tests.launch.methods import CHANGES, CLASSES, IMAGE, SAMPLES, STAGES, TEXT, length
from tests.shard_sets import described, write_shards
from tests.training_sets import npy

STEPS = 24


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of drawn scenes: `train` with 192, `val` with 48 samples."""
    folder = tmp_path_factory.mktemp("scenes")
    build("scenes", folder, splits=("train", "val"), options={"train": 192, "val": 48})
    return folder


@pytest.fixture(scope="session")
def queries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of composed queries about scenes, and what those of `composed_val` are searched in."""
    folder = tmp_path_factory.mktemp("queries")
    counts = {"composed_train": 32, "composed_val": 12}
    build("scenes", folder, splits=(*counts, "composed_gallery"), options=counts)
    return folder


@pytest.fixture(scope="session")
def tens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 scenes in shards of ten."""
    folder = tmp_path_factory.mktemp("tens")
    build("scenes", folder, splits=("val",), options={"val": 48}, samples_per_shard=10)
    return folder / "val"


def write_recipe(path: Path, scenes: Path) -> Path:
    """Write a recipe of two very small towers and four epochs of six steps, and return its path."""
    image = {"patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2}
    values = {
        "data": {
            "train": str(scenes / "train"),
            "val": str(scenes / "val"),
            "batch_size": 32,
            "workers": 0,
            "crop": None,
            "flip": False,
        },
        "method": {
            "kind": "clip",
            "image": {
                "kind": "timm",
                "name": "vit_tiny_patch16_224",
                "size": 32,
                "options": image,
            },
            "text": {
                "kind": "transformer",
                "tokenizer": {"kind": "byte_pair", "vocabulary": 300},
                "width": 64,
                "layers": 2,
                "heads": 2,
            },
            "embedding": 64,
        },
        "stages": [{"length": f"{STEPS} steps", "optimizer": {"lr": 3e-4}}],
        "training": {"log_every": 1},
        "evaluation": {"every": "6 steps"},
        "checkpoints": {"every": "6 steps", "best": "rsum"},
    }
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="session")
def recipe(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two very small towers, four epochs of six steps: a run takes two seconds."""
    return write_recipe(tmp_path_factory.mktemp("recipes") / "tiny.yaml", scenes)


@pytest.fixture(scope="session")
def finished(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of the tiny recipe that came to its end; tests that write copy it."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    done = train(recipe, f"run={folder}")
    assert done.code == 0, done.err
    (folder / "printed").write_text(done.out)
    return folder


@pytest.fixture(scope="session")
def embedded_tens(finished: Path, tens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Embeddings of these by that run, of an undisturbed command on one rank."""
    folder = tmp_path_factory.mktemp("embeddings") / "whole"
    given = ["--data", tens, "--to", folder, "--dtype", "float32", "--batch-size", 8]
    done = embed(finished, *given)
    assert done.code == 0, done
    return folder


@pytest.fixture(scope="session")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of features that lie around their class's: `train` and `val`."""
    folder = tmp_path_factory.mktemp("classes")
    random = np.random.default_rng(0)
    centres = random.normal(size=(CLASSES, IMAGE)), random.normal(size=(CLASSES, TEXT))
    for split in ("train", "val"):
        samples = {}
        for number in range(SAMPLES):
            label = number % CLASSES
            image, text = (
                (side[label] + random.normal(size=side.shape[1]) / 2).astype(np.float32)
                for side in centres
            )
            samples[f"{number:03d}"] = {
                "image.npy": npy(image),
                "text.npy": npy(text[None]),
                "json": described([], image_id=f"{split}{number}", labels=[f"class {label}"]),
            }
        write_shards(folder / split, [samples])
    return folder


@pytest.fixture
def given(scenes: Path, classes: Path, queries: Path) -> Callable[[str], list[str]]:
    """The arguments that train a method's recipe on tiny shards, all but the run."""

    def arguments(method: str) -> list[str]:
        shards = classes if method == "uncsm" else scenes
        data = [f"data.{key}={shards}/{key}" for key in ("train", "val")]
        if method in {"tirg", "dim"}:
            data = [f"data.{key}={queries}/composed_{key}" for key in ("train", "val", "gallery")]
        return [
            method,
            *data,
            *("data.batch_size=16", "data.workers=0", "data.crop=null", "data.flip=false"),
            *("training.log_every=1", "evaluation.every=0", "checkpoints.every=3 steps"),
            *(f"stages.{n}.length={length(method)} steps" for n in range(len(STAGES[method]))),
            # A few steps hold no promise.
            *(f"stages.{number}.requires={{}}" for number in range(len(STAGES[method]))),
            "checkpoints.keep_last=20",
            *CHANGES[method],
        ]

    return arguments
