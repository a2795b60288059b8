"""Zero-shot classification and retrieval beside clip_benchmark, on generated sets of its layout.

    python -m benchmarks.classification [--images 400]

One small random model of open_clip measures both sets twice: by clip_benchmark, in
.venv-references, and by our protocols. Images are JPEG, PNG and WebP of several sizes. Printed are
both numbers and their difference; it fails where one is over 1e-6.
"""

import argparse
import io
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

import xmodal
from benchmarks.beside import HERE, console, run
from shards.index import index
from xmodal.data.manifest import read_manifest
from xmodal.errors import run_command
from xmodal.evaluation.config import EvaluationConfig
from xmodal.evaluation.retrieval import evaluate_retrieval, sets_to_measure

PYTHON = HERE.parent / ".venv-references" / "bin" / "python"
ALONE = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
COLOURS = (
    "red",
    "green",
    "blue",
    "yellow",
    "grey",
    "pink",
    "olive",
    "teal",
    "black",
    "white",
    "tan",
)
WORDS = ("picture", "photo", "thing", "wall", "square")
TEMPLATES = ("a photo of a {c} thing.", "{c}.", "a blurry {c} picture, and nothing else")
KINDS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
TOLERANCE = 1e-6
Numbers = Mapping[str, float]
# Ours, in percent, by the names of clip_benchmark's.
SAME = {
    "acc1": "zero-shot/top1",
    "acc5": "zero-shot/top5",
    "mean_per_class_recall": "zero-shot/mean_class_recall",
    "image_retrieval_recall@5": "all-captions/text_to_image/recall@5",
    "text_retrieval_recall@5": "all-captions/image_to_text/recall@5",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=400)
    given = parser.parse_args()
    if not PYTHON.exists():
        sys.exit("error: .venv-references is missing: run `make references`, which makes it")
    with tempfile.TemporaryDirectory() as folder:
        theirs, ours = measure_both(Path(folder), given.images)
    console.print(f"{'':26}clip_benchmark        ours  difference", highlight=False)
    for name, value in theirs.items():
        difference = ours[name] - value
        console.print(f"{name:26} {value:13.6f} {ours[name]:11.6f} {difference:11.1e}")
    if any(abs(ours[name] - value) > TOLERANCE for name, value in theirs.items()):
        sys.exit(f"error: a difference is over {TOLERANCE:g}")


def measure_both(folder: Path, images: int) -> tuple[Numbers, Numbers]:
    """Return the metrics of `SAME` as clip_benchmark and as our protocols measure them."""
    model, sets = (
        folder / "model",
        {"zero-shot": folder / "classes", "all-captions": folder / "captions"},
    )
    write_set(sets["zero-shot"], images, captions=False)
    write_set(sets["all-captions"], images // 4, captions=True)
    command = [str(PYTHON), str(HERE / "measure_classification.py"), str(model)]
    theirs = run([*command, *map(str, sets.values())], [ALONE])
    ours = {name: value for protocol, one in sets.items()
            for name, value in measure(model, one / "test", protocol).items()}  # fmt: skip
    return {name: theirs[name] for name in SAME}, {
        name: ours[same] / 100 for name, same in SAME.items()
    }


def measure(source: Path, shards: Path, protocol: str) -> Numbers:
    """Return the metrics of a protocol, by our own evaluation."""
    index(str(shards), 1)
    model, manifest = xmodal.load(source, device="cpu"), read_manifest(shards)
    dataset, _ = sets_to_measure(
        model.method.contents, manifest, None, model.transform, model.tokenizer
    )
    return evaluate_retrieval(
        model.method,
        dataset,
        None,
        EvaluationConfig(),
        protocols=[protocol],
        device=model.device,
        workers=0,
        max_bad_share=0.0,
    ).metrics


def write_set(folder: Path, images: int, *, captions: bool) -> None:
    """Write a set in clip_benchmark's layout: pictures of colours in two shards."""
    (folder / "test").mkdir(parents=True)
    (folder / "test" / "nshards.txt").write_text("2\n")
    (folder / "classnames.txt").write_text("\n".join(COLOURS) + "\n")
    (folder / "zeroshot_classification_templates.txt").write_text("\n".join(TEMPLATES) + "\n")
    if captions:
        (folder / "dataset_type.txt").write_text("retrieval\n")
    rng = np.random.default_rng(0)
    for shard in range(2):
        with tarfile.open(folder / "test" / f"{shard}.tar", "w") as tar:
            for number in range(shard, images, 2):
                for extension, data in sample(number, rng, captions=captions).items():
                    member = tarfile.TarInfo(f"s{number:07d}.{extension}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))


def sample(number: int, rng: np.random.Generator, *, captions: bool) -> dict[str, bytes]:
    """Return a picture of any size and format, and its class or five captions."""
    colour, extension = COLOURS[number**2 % len(COLOURS)], list(KINDS)[number % len(KINDS)]
    sides = rng.integers(24, 80, 2)
    picture = Image.new("RGB", tuple(sides.tolist()), colour)
    noise = rng.normal(0, 40, (sides[1], sides[0], 3))
    pixels = np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, KINDS[extension])
    lines = [f"{number} {colour} {word} of {rng.integers(1000)}" for word in WORDS]
    text = {"txt": "\n".join(lines)} if captions else {"cls": str(number**2 % len(COLOURS))}
    return {extension: buffer.getvalue()} | {name: one.encode() for name, one in text.items()}


if __name__ == "__main__":
    run_command(main)
