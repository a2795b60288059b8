"""Planted duplicates and leakage: what `launch/curate.py` finds of them, by kind.

    python -m benchmarks.duplicates --model runs/flickr8k_finetuned --data data/flickr8k

Into a copy of DATA/train, changed copies of some images are planted: re-encoded at a JPEG quality
from 40 to 75, cropped to 95 % of their sides at a random place, or mirrored. Others are planted
into a copy of DATA/val. The commands that embed and curate run on both. What they find that was not
planted counts as wrong, also where it is a duplicate that the data had before.
"""

import argparse
import io
import json
import random
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image, ImageOps
from rich import box
from rich.table import Table

from benchmarks.beside import console

Place = tuple[str, str]  # shard and key
Rules = dict[str, list[str]]
ROOT = Path(__file__).parents[1]
PLANTED = "planted-000000.tar"
RULES: Rules = {
    "pictures": [],
    "embeddings, 0.90": ["--rule", "embeddings", "--similarity", "0.90"],
    "embeddings, 0.95": ["--rule", "embeddings", "--similarity", "0.95"],
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a run, or another folder of a model")
    parser.add_argument("--data", required=True, type=Path, help="folder with train and val")
    parser.add_argument("--each", type=int, default=200, help="planted of each kind; default: 200")
    parser.add_argument("--shards", type=int, help="of train; default: all")
    parser.add_argument("--work", type=Path, default=Path("runs/duplicates"), help="a new folder")
    parser.add_argument("--json", metavar="FILE", help="write the figures there as well")
    given = parser.parse_args()
    train, val = given.work / "train", given.work / "val"
    images = copy_shards(given.data / "train", train, given.shards)
    copy_shards(given.data / "val", val, None)
    sources = random.Random(0).sample(sorted(images), 2 * given.each * len(KINDS))
    duplicates = plant(images, sources[: len(sources) // 2], train)
    leaks = plant(images, sources[len(sources) // 2 :], val)
    for name in ("train", "val"):
        python("-m", "shards", "index", str(given.work / name))
        to = str(given.work / f"{name}-embeddings")
        python("launch/embed.py", given.model, "--data", str(given.work / name), "--to", to)
    rows = [
        row
        for rule in RULES
        for row in (
            *of_duplicates(given.work, rule, duplicates),
            *of_leaks(given.work, rule, leaks),
        )
    ]
    show(rows)
    if given.json:
        Path(given.json).write_text(json.dumps(rows, indent=1) + "\n")


def copy_shards(source: Path, target: Path, number: int | None) -> dict[Place, bytes]:
    """Copy the tars of a folder into a new one; return their images."""
    target.mkdir(parents=True)
    images = {}
    for path in sorted(source.glob("*.tar"))[:number]:
        shutil.copy(path, target)
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                if extension == "jpg" and (file := tar.extractfile(member)):
                    images[path.name, key] = file.read()
    return images


def plant(
    images: dict[Place, bytes], sources: list[Place], folder: Path
) -> dict[Place, tuple[str, Place]]:
    """Write changed copies of images into a shard of a folder; return kind and source of each."""
    rng, planted = random.Random(1), {}
    with tarfile.open(folder / PLANTED, "w") as tar:
        for number, source in enumerate(sources):
            kind = [*KINDS][number % len(KINDS)]
            key = f"planted{number:06d}"
            image = Image.open(io.BytesIO(images[source])).convert("RGB")
            add(tar, f"{key}.jpg", KINDS[kind](image, rng))
            add(tar, f"{key}.json", json.dumps({"captions": [f"planted {number}"]}).encode())
            planted[PLANTED, key] = kind, source
    return planted


def reencoded(image: Image.Image, rng: random.Random) -> bytes:
    """Return an image as JPEG of a lower quality."""
    return encoded(image, rng.randint(40, 75))


def cropped(image: Image.Image, rng: random.Random) -> bytes:
    """Return 95 % of an image's sides."""
    width, height = (round(0.95 * side) for side in image.size)
    left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
    return encoded(image.crop((left, top, left + width, top + height)), 90)


def mirrored(image: Image.Image, _rng: random.Random) -> bytes:
    """Return an image's mirror image."""
    return encoded(ImageOps.mirror(image), 90)


KINDS: dict[str, Callable[[Image.Image, random.Random], bytes]] = {
    "re-encoded": reencoded,
    "cropped to 95 %": cropped,
    "mirrored": mirrored,
}


def encoded(image: Image.Image, quality: int) -> bytes:
    """Return an image as JPEG."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return file.getvalue()


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a file to a tar."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def of_duplicates(
    work: Path, rule: str, planted: dict[Place, tuple[str, Place]]
) -> Iterator[dict[str, object]]:
    """Find duplicates in the train set by a rule, and yield a row for each kind."""
    to = work / f"duplicates, {rule}"
    python(
        "launch/curate.py",
        "duplicates",
        str(work / "train-embeddings"),
        "--to",
        str(to),
        *RULES[rule],
    )
    pairs = [frozenset(both) for both in read_pairs(to, "", "other_")]
    truth = {frozenset((place, source)): kind for place, (kind, source) in planted.items()}
    return rows_of(f"duplicates by {rule}", pairs, truth)


def of_leaks(
    work: Path, rule: str, planted: dict[Place, tuple[str, Place]]
) -> Iterator[dict[str, object]]:
    """Find images of the val set in the train set by a rule, and yield a row for each kind."""
    to = work / f"leakage, {rule}"
    of = [str(work / f"{name}-embeddings") for name in ("train", "val")]
    command = ["leakage", of[0], "--against", of[1], "--to", str(to), *RULES[rule]]
    python("launch/curate.py", *command)
    truth = {(place, source): kind for place, (kind, source) in planted.items()}
    return rows_of(f"leakage by {rule}", [*read_pairs(to, "test_", "")], truth)


def read_pairs(folder: Path, first: str, second: str) -> Iterator[tuple[Place, Place]]:
    """Yield the places of both images of each pair of a table."""
    table = pq.read_table(folder / "pairs.parquet").to_pydict()
    sides = [zip(table[f"{n}shard"], table[f"{n}key"], strict=True) for n in (first, second)]
    return zip(*sides, strict=True)


def rows_of(task: str, found: list, truth: dict) -> Iterator[dict[str, object]]:
    """Yield recall of each kind, then precision and recall of all."""
    for kind in KINDS:
        of_kind = {pair for pair, one in truth.items() if one == kind}
        hit = len(of_kind.intersection(found))
        yield {"task": task, "kind": kind, "planted": len(of_kind), "found": hit,
               "recall": hit / len(of_kind), "precision": None}  # fmt: skip
    hit = len(set(truth).intersection(found))
    yield {"task": task, "kind": "all", "planted": len(truth), "found": hit,
           "recall": hit / len(truth), "precision": hit / max(1, len(set(found)))}  # fmt: skip


def show(rows: list[dict]) -> None:
    """Print the rows."""
    table = Table("task", "kind", "planted", "found", "recall", "precision", box=box.SIMPLE)
    for row in rows:
        precision = "" if row["precision"] is None else f"{row['precision']:.3f}"
        recall = f"{row['recall']:.3f}"
        table.add_row(
            row["task"], row["kind"], str(row["planted"]), str(row["found"]), recall, precision
        )
    console.print(table)


def python(*command: str) -> None:
    """Run a command of Python, and end with it where it fails."""
    print(" ".join(["python", *command]), flush=True)
    if subprocess.run([sys.executable, *command], cwd=ROOT, check=False).returncode:
        sys.exit("error: the command above failed")


if __name__ == "__main__":
    main()
