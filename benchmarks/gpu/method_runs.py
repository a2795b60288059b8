"""Three steps of every stage of every method's recipe, with small encoders, in one process.

    python -m benchmarks.gpu.method_runs WORK NAME PRECISION

Trains on the GPU, or on the CPU where none is visible, into WORK/NAME/METHOD, and prints the name
of each method that is done.
"""

import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np

from benchmarks.gpu.tiny import history, scenes
from benchmarks.loader import write_shards
from tests.launch.methods import CHANGES, CLASSES, IMAGE, SAMPLES, TEXT
from xmodal.assembly.recipe import Recipe, read_recipe
from xmodal.assembly.session import Session
from xmodal.distributed.environment import Environment, start

STEPS = 3  # of each stage
TOWERS = (
    "method.image={kind: timm, name: vit_tiny_patch16_224, size: 32, weights: random, "
    "options: {patch_size: 8, embed_dim: 64, depth: 2, num_heads: 2}}",
    "method.text={kind: transformer, width: 64, layers: 2, heads: 2, "
    "tokenizer: {kind: byte_pair, vocabulary: 300}}",
    "method.embedding=64",
)
METHODS = {"clip": TOWERS, "siglip": TOWERS, **CHANGES}
COMPOSED = {"tirg", "dim"}


def main() -> None:
    """Train all methods."""
    work, name, precision = sys.argv[1:]
    environment = start()
    for method in METHODS:
        train(method, Path(work), name, precision, environment)
        print(method, flush=True)


def train(method: str, work: Path, name: str, precision: str, environment: Environment) -> None:
    """Train a method's recipe into WORK/NAME/METHOD, without its log."""
    recipe = recipe_of(method, work, name, precision)
    with redirect_stdout(io.StringIO()):
        Session(recipe, environment).train()


def recipe_of(method: str, work: Path, name: str, precision: str) -> Recipe:
    """Return the recipe of a method, made small."""
    number = range(len(read_recipe(method, []).stages))
    lengths = [f"stages.{stage}.length={STEPS} steps" for stage in number]
    free = [f"stages.{stage}.requires={{}}" for stage in number]
    data = [
        "data.batch_size=16",
        "data.workers=0",
        "data.crop=null",
        "data.flip=false",
        "data.val=null",
        *_data(method, work),
    ]
    run = [
        f"run={work / name / method}",
        f"training.precision={precision}",
        "training.log_every=1",
        "evaluation.every=0",
        "checkpoints.every=1000 steps",
    ]
    return read_recipe(method, [*data, *run, *lengths, *free, *METHODS[method]])


def losses(method: str, work: Path, name: str) -> list[dict[str, float]]:
    """Return the losses by name of every step that a method has trained."""
    return [
        {key: row[key] for key in row if key.startswith("loss/")}
        for row in history(work / name / method)
        if "loss" in row
    ]


def make_shards(work: Path) -> None:
    """Make the shards that methods train on: scenes, composed queries, features of classes."""
    scenes(work)
    random = np.random.default_rng(0)
    centres = random.normal(size=(CLASSES, IMAGE)), random.normal(size=(CLASSES, TEXT))
    samples = []
    for number in range(SAMPLES):
        label = number % CLASSES
        image, text = (side[label] + random.normal(size=side.shape[1]) / 2 for side in centres)
        record = {"captions": [], "image_id": str(number), "labels": [f"class {label}"]}
        samples.append(
            {
                "image.npy": _npy(image),
                "text.npy": _npy(text[None]),
                "json": json.dumps(record).encode(),
            }
        )
    write_shards(work / "classes", samples)


def _npy(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values.astype(np.float32))
    return buffer.getvalue()


def _data(method: str, work: Path) -> list[str]:
    if method in COMPOSED:
        return [f"data.train={work}/scenes/composed_train"]
    return [f"data.train={work}/{'classes' if method == 'uncsm' else 'scenes/train'}"]


if __name__ == "__main__":
    main()
