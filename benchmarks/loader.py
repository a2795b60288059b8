"""The input pipeline beside open_clip's: photographs a second, from tars to batches.

    make bench
    .venv/bin/python -m benchmarks.loader [--photographs DIR] [--quick] [--json FILE]

Photographs are enlarged to 500×375 and 640×480 and encoded to about 44 and 69 KB, as those of web
data sets are; without `--photographs` (a folder of JPEGs, such as Flickr8k's) noise with the
spectrum of photographs stands in. Both loaders crop 90 to 100 % of the image to 224 pixels, with
two workers and one thread each, in turns; the median counts. Printed besides: where our time goes,
the difference of pixels from Pillow's, the memory over twenty epochs, and how many samples of
features come in a second on one core, beside webdataset's.
"""

import argparse
import io
import json
import os
import random
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.beside import PEERS, console, require_peers, row, run, say
from benchmarks.measure import hardware
from benchmarks.measure_loader import CROP, SIZE, measure, ours
from xmodal.data.decode import open_image
from xmodal.data.loader import TrainingLoader
from xmodal.data.manifest import read_manifest, write_manifest
from xmodal.data.reader import SampleReader
from xmodal.data.shard_index import write_index
from xmodal.data.transforms import cut, random_crop, resize

SHAPES = {"500x375": ((500, 375), 44_000), "640x480": ((640, 480), 69_000)}
SHARDS = 4
CAPTION = "two dogs run over a meadow after a yellow ball ."
FEATURES = {"image": (1, 2048), "text": (1, 384)}
FEATURES_PER_SECOND = 50_000  # what is asked of one core


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photographs", type=Path, metavar="DIR", help="a folder of JPEGs")
    parser.add_argument("--quick", action="store_true", help="one turn, under a minute")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    args = parser.parse_args()
    require_peers()
    torch.set_num_threads(1)
    count, samples, turns = (256, 1024, 1) if args.quick else (2000, 8000, 3)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, (shape, num_bytes) in SHAPES.items():
            shards = Path(folder, name)
            images = photographs(args.photographs, shape, count)
            size = write_photographs(shards, images, num_bytes)
            console.print(f"{name}: {count} photographs of {size / 1000:.1f} KB on average")
            rows += compare(name, shards, samples, turns)
            profile(shards, min(count, 500))
        rows += memory(shards, epochs=20, samples=64 * (4 if args.quick else 16))
        rows += features(Path(folder, "features"), 4096 if args.quick else 32_768)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


def photographs(folder: Path | None, shape: tuple[int, int], count: int) -> Iterator[Image.Image]:
    """Yield images of (width, height)."""
    found = sorted(folder.glob("*.jpg"))[:count] if folder else []
    if folder and not found:
        sys.exit(f"error: {folder} has no *.jpg")
    for number in range(count):
        if found:
            with Image.open(found[number % len(found)]) as image:
                yield image.convert("RGB").resize(shape, Image.Resampling.BICUBIC)
        else:
            yield noise(shape, number)


def noise(shape: tuple[int, int], seed: int) -> Image.Image:
    """Return noise whose amplitude falls with frequency as that of photographs does."""
    width, height = shape
    random = np.random.default_rng(seed)
    falling = 1 / np.maximum(
        np.hypot(*np.meshgrid(np.fft.rfftfreq(width), np.fft.fftfreq(height))), 1e-3
    )
    spectrum = np.fft.rfft2(random.standard_normal((3, height, width))) * falling
    pixels = np.fft.irfft2(spectrum, (height, width))
    pixels = 128 + 50 * pixels / pixels.std()
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


def write_photographs(folder: Path, images: Iterator[Image.Image], num_bytes: int) -> float:
    """Write shards that both loaders read; return the mean size of an image."""
    images_list = list(images)
    quality = fitting_quality(images_list[:20], num_bytes)
    encoded = [encode(image, quality) for image in images_list]
    write_shards(folder, [{"jpg": data, "txt": CAPTION.encode()} for data in encoded])
    return statistics.mean(map(len, encoded))


def fitting_quality(images: Sequence[Image.Image], num_bytes: int) -> int:
    """Return the JPEG quality at which images are nearest to so many bytes each."""
    return min(
        range(30, 99, 2),
        key=lambda q: abs(statistics.mean(len(encode(one, q)) for one in images) - num_bytes),
    )


def encode(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def write_shards(folder: Path, samples: Sequence[dict[str, bytes]]) -> None:
    """Write samples into tars with their index."""
    folder.mkdir()
    counts = {}
    for shard in range(SHARDS):
        path = folder / f"train-{shard:06d}.tar"
        with tarfile.open(path, "w") as tar:
            for number, sample in list(enumerate(samples))[shard::SHARDS]:
                for extension, data in sample.items():
                    info = tarfile.TarInfo(f"{number:09d}.{extension}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        counts[path.name] = write_index(path).num_samples
    write_manifest(folder, counts)


def compare(name: str, shards: Path, samples: int, turns: int) -> list[dict[str, Any]]:
    """Measure both loaders in turns; print and return the row of rates."""
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "peer": []}
    for _ in range(turns):
        for side, results in found.items():
            python = str(PEERS) if side == "peer" else sys.executable
            # The peer takes longer for as many.
            amount = samples if side == "ours" else samples // 3
            command = [python, "-m", "benchmarks.measure_loader", side, str(shards), str(amount)]
            results.append(run(command, [{}]))
    rates = [statistics.median(one["rate"] for one in side) for side in found.values()]
    spent = [statistics.median(one["cpu"] for one in side) for side in found.values()]
    one = row(f"loader/{name}/rate", rates[0], rates[1], "/s", hardware())
    say(one, "open_clip")
    console.print(
        f"    processor time of all processes, ms a sample: {spent[0]:.3f} and {spent[1]:.3f} "
        f"(ratio {spent[1] / spent[0]:.2f})"
    )
    return [one]


def profile(shards: Path, count: int) -> None:
    """Print where the time of a sample goes, and how its pixels differ from Pillow's."""
    reader = SampleReader(read_manifest(shards))
    seconds = dict.fromkeys(("read", "decode", "resize", "copy"), 0.0)
    differences = []
    out = torch.empty(SIZE, SIZE, 3, dtype=torch.uint8)
    draws = np.random.default_rng(0)
    for number in range(count):
        sample = timed(seconds, "read", partial(reader.__getitem__, number))
        image = open_image(sample.image())
        crop = random_crop(image.height, image.width, CROP, draws)
        pixels = timed(seconds, "decode", image.pixels)
        square = timed(seconds, "resize", partial(resize, cut(pixels, crop), SIZE))
        timed(seconds, "copy", partial(out.permute(2, 0, 1).copy_, square))
        if number < 50:
            differences.append(difference(sample.image(), crop))
    whole = time.perf_counter()
    loader = ours(shards, 0, 64, count // 64)
    made = 64 * sum(1 for _ in loader)
    whole = (time.perf_counter() - whole) / made
    parts = {name: 1e6 * spent / count for name, spent in seconds.items()}
    parts["the rest"] = 1e6 * whole - sum(parts.values())
    shown = ", ".join(f"{name} {spent:.0f}" for name, spent in parts.items())
    console.print(f"    µs a sample in one process: {shown}; all {1e6 * whole:.0f}")
    console.print(f"    mean difference from Pillow's pixels: {np.mean(differences):.3f} of 255")


def timed(seconds: dict[str, float], name: str, work: Callable[[], Any]) -> Any:
    begun = time.perf_counter()
    done = work()
    seconds[name] += time.perf_counter() - begun
    return done


def difference(data: bytes, crop: tuple[int, int, int, int]) -> float:
    """Return the mean difference of a crop's pixels from what Pillow alone makes of it."""
    top, left, rows, columns = crop
    with Image.open(io.BytesIO(data)) as image:
        part = image.convert("RGB").crop((left, top, left + columns, top + rows))
    theirs = np.asarray(part.resize((SIZE, SIZE), Image.Resampling.BICUBIC)).astype(int)
    mine = resize(cut(open_image(data).pixels(), crop), SIZE).permute(1, 2, 0).numpy().astype(int)
    return float(np.abs(theirs - mine).mean())


def memory(shards: Path, epochs: int, samples: int) -> list[dict[str, Any]]:
    """Print the memory of trainer and workers after the second epoch and after the last."""
    loader = ours(shards, 2, 64, epochs * samples // 64)
    assert isinstance(loader, TrainingLoader)
    found = {}
    for step, _ in enumerate(loader, 1):
        if step in (2 * samples // 64, epochs * samples // 64):
            found[step] = own_memory()
    early, late = found.values()
    one = row(f"loader/memory/{epochs}epochs", late, early, "MiB", hardware())
    say(one, "after 2 epochs")
    return [one]


def own_memory() -> float:
    """Return MiB of this process and its children, shared pages counted once."""
    total = 0
    for process in (os.getpid(), *children()):
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
        total += int(next(line.split()[1] for line in text.splitlines() if line.startswith("Pss:")))
    return total / 1024


def children() -> list[int]:
    found = Path(f"/proc/self/task/{os.getpid()}/children").read_text()
    return [int(process) for process in found.split()]


def features(folder: Path, count: int) -> list[dict[str, Any]]:
    """Measure how many samples of features a core reads, beside webdataset."""
    draws = np.random.default_rng(0)
    record = {"image_id": "1", "captions": []}
    samples = []
    for number in range(count):
        arrays = {f"{side}.npy": npy(draws, shape) for side, shape in FEATURES.items()}
        samples.append({**arrays, "json": json.dumps(record | {"image_id": str(number)}).encode()})
    write_shards(folder, samples)
    rates: dict[str, list[float]] = {"ours": [], "peer": []}
    for _ in range(3):
        # One worker reads, and the trainer has next to nothing to do: a core's work.
        rates["ours"].append(measure(ours(folder, 1, 64, 4 * count // 64), 64)["rate"])
        rates["peer"].append(measure(webdatasets(folder), 64)["rate"])
    fastest = max(rates["ours"]), max(rates["peer"])
    one = row("loader/features/rate", *fastest, "/s", hardware())
    say(one, "webdataset")
    console.print(
        f"    {one['ours'] / FEATURES_PER_SECOND:.2f} of {FEATURES_PER_SECOND:,} a second"
    )
    return [one]


def npy(draws: np.random.Generator, shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    values = draws.standard_normal(shape, dtype=np.float32)
    np.save(buffer, values if shape == FEATURES["text"] else values[0], allow_pickle=False)
    return buffer.getvalue()


def webdatasets(folder: Path) -> Iterator[object]:
    """Yield batches of features as webdataset makes them."""
    import webdataset

    tars = [str(tar) for tar in sorted(folder.glob("*.tar"))]
    dataset = (
        webdataset.WebDataset(tars, shardshuffle=False).decode().to_tuple("image.npy", "text.npy")
    )
    yield from dataset.batched(64, partial=False)


if __name__ == "__main__":
    random.seed(0)
    main()
