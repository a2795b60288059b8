"""Training beside open_clip's: samples a second of the same model, data and precision.

    make bench
    .venv/bin/python -m benchmarks.training [--shards DIR] [--photographs DIR] [--quick]

Once where computing is the limit (a vision transformer of 6 layers on images of 96 pixels, on all
of two cores), and once where data are (one of a layer at 224 pixels, on one core, from images of
500×375); one loading process each. Both trainings run their own command, in turns; the median
counts. The former reads `--shards`, such as Flickr8k's at 160 pixels, the latter `--photographs`, a
folder of JPEGs, enlarged; without them noise with the spectrum of photographs stands in. Printed
besides: seconds from the quick start's command to its first step.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.beside import HERE, PEERS, console, require_peers, row, run, say
from benchmarks.loader import CAPTION, encode, fitting_quality, photographs, write_shards
from benchmarks.measure import hardware
from benchmarks.measure_training import SETUPS
from xmodal.data.manifest import read_manifest
from xmodal.data.reader import SampleReader

COUNT = 2048  # samples
IMAGES = {"compute": ((213, 160), 10_000), "data": ((500, 375), 44_000)}  # width, height; bytes
STEPS = {"compute": 16, "data": 120}
GOALS = {"compute": 1.15, "data": 1.5, "start": 15.0}
QUICKSTART = ["launch/train.py", "quickstart", "training.log_every=1", "stages.0.length=1 steps"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shards", type=Path, metavar="DIR", help="photographs with captions")
    parser.add_argument("--photographs", type=Path, metavar="DIR", help="a folder of JPEGs")
    parser.add_argument("--quick", action="store_true", help="one turn of few steps")
    parser.add_argument("--only", choices=[*SETUPS, "start"], help="this part alone")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    args = parser.parse_args()
    parts = [args.only] if args.only else [*SETUPS, "start"]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in parts:
            if name == "start":
                rows.append(start(Path(folder), 1 if args.quick else 3))
            else:
                rows += compare(name, Path(folder), args)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


def compare(name: str, folder: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Train on both sides in turns; print and return the row of samples a second."""
    require_peers()
    shards = folder / name
    of_shards = name == "compute" and args.shards is not None
    samples = repacked(args.shards) if of_shards else drawn(args.photographs, *IMAGES[name])
    write_shards(shards, list(samples))
    steps, turns = (STEPS[name] // 4, 1) if args.quick else (STEPS[name], 3)
    place = {"OMP_NUM_THREADS": str(SETUPS[name].threads), "CLIP_TOKENIZER": open_clips_folder()}
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "peer": []}
    for _ in range(turns):
        for side, results in found.items():
            python = str(PEERS) if side == "peer" else sys.executable
            command = [python, "-m", "benchmarks.measure_training", side, name, str(shards)]
            results.append(run([*command, str(steps)], [place]))
    check_same(found)
    rates, spent = (
        [statistics.median(one[key] for one in side) for side in found.values()]
        for key in ("rate", "cpu")
    )
    one = row(f"training/{name}/rate", rates[0], rates[1], "/s", hardware())
    say(one, "open_clip")
    console.print(
        f"    processor time of trainer and loader, ms a sample: {spent[0]:.2f} and "
        f"{spent[1]:.2f} (ratio {spent[1] / spent[0]:.2f}); goal: {GOALS[name]} times its rate"
    )
    return [one]


def repacked(shards: Path) -> Iterator[dict[str, bytes]]:
    """Yield samples as both sides read them: an image, and its first caption as text."""
    reader = SampleReader(read_manifest(shards))
    for number in range(len(reader)):
        sample = reader[number]
        yield {"jpg": bytes(sample.image()), "txt": sample.captions()[0].encode()}


def drawn(
    folder: Path | None, shape: tuple[int, int], num_bytes: int
) -> Iterator[dict[str, bytes]]:
    """Yield images of a size, and captions as long as Flickr8k's: 5 to 20 words."""
    images = list(photographs(folder, shape, COUNT))
    quality, random = fitting_quality(images[:20], num_bytes), np.random.default_rng(0)
    for image in images:
        words = random.choice(CAPTION.split(), random.integers(5, 21))
        yield {"jpg": encode(image, quality), "txt": " ".join(words).encode()}


def check_same(found: dict[str, list[dict[str, Any]]]) -> None:
    """Exit where the two models have not the same number of weights."""
    sizes = {one["parameters"] for side in found.values() for one in side}
    if len(sizes) > 1:
        sys.exit(f"error: the models are not the same: {sizes} weights")


def open_clips_folder() -> str:
    """Return the folder that has the vocabulary of CLIP's tokenizer."""
    code = "import importlib.util as i; print(*i.find_spec('open_clip').submodule_search_locations)"
    return subprocess.run(
        [str(PEERS), "-c", code], check=True, text=True, capture_output=True
    ).stdout.strip()


def start(folder: Path, turns: int) -> dict[str, Any]:
    """Print and return seconds from the quick start's command to its first step."""
    scenes = folder / "scenes"
    build = [sys.executable, "-m", "shards", "build", "scenes", "--to", str(scenes)]
    subprocess.run(build, check=True, cwd=HERE.parent, stdout=subprocess.DEVNULL)
    seconds = [first_step(folder / f"run{turn}", scenes) for turn in range(turns)]
    one = row("training/start", statistics.median(seconds), GOALS["start"], "s", hardware())
    say(one, "goal")
    return one


def first_step(run_folder: Path, scenes: Path) -> float:
    """Return seconds until the quick start has logged its first step."""
    launcher = str(Path(sys.executable).with_name("deepspeed"))
    data = [f"data.train={scenes}/train", f"data.val={scenes}/val", "evaluation.every=0"]
    command = [launcher, "--log_level", "critical", *QUICKSTART, *data, f"run={run_folder}"]
    metrics, begun = run_folder / "metrics.jsonl", time.perf_counter()
    with subprocess.Popen(command, cwd=HERE.parent, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and not (metrics.exists() and metrics.stat().st_size):
            time.sleep(0.02)
        passed = time.perf_counter() - begun
    if process.returncode:
        sys.exit(f"error: {' '.join(command)} failed; its message is above")
    return passed


if __name__ == "__main__":
    main()
