"""One measurement of one loader, from shards to batches on the training process: a line of JSON.

    python -m benchmarks.measure_loader SIDE SHARDS SAMPLES [--workers 2] [--batch 64]

SIDE is `ours`, or `peer`: open_clip's, in its own environment. Counted are the samples of all
batches after the first ones, which wait for shuffling and read-ahead to fill.
"""

import argparse
import json
import random
import resource
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace

import torch

SIZE, CROP, CONTEXT = 224, (0.9, 1.0), 32
UNCOUNTED = 6  # batches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("side", choices=["ours", "peer"])
    parser.add_argument("shards", type=Path)
    parser.add_argument("samples", type=int)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    args = parser.parse_args()
    torch.set_num_threads(1)
    random.seed(0)
    make = {"ours": ours, "peer": open_clips}[args.side]
    batches = args.samples // args.batch
    print(json.dumps(measure(make(args.shards, args.workers, args.batch, batches), args.batch)))


def measure(loader: Iterable[object], batch: int) -> dict[str, float]:
    """Return samples a second, and milliseconds of processor a sample of all processes."""
    batches: Iterator[object] = iter(loader)
    for _ in range(UNCOUNTED):
        next(batches)
    begun, own = time.perf_counter(), time.process_time()
    count = sum(1 for _ in batches)
    seconds, own = time.perf_counter() - begun, time.process_time() - own
    del batches, loader  # which ends the workers, whose time is known then
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = own + (children.ru_utime + children.ru_stime) * count / (count + UNCOUNTED)
    return {"rate": count * batch / seconds, "cpu": 1000 * spent / (count * batch)}


def ours(shards: Path, workers: int, batch: int, batches: int) -> Iterable[object]:
    """Return xmodal's loader, as a recipe with these settings makes it."""
    from xmodal.data.loader import TrainingLoader
    from xmodal.data.manifest import read_manifest
    from xmodal.data.mixture import Mixture
    from xmodal.data.reader import SampleReader
    from xmodal.data.tokenizers.byte_pair import train_tokenizer
    from xmodal.data.training_set import DataSet, TrainingSet
    from xmodal.data.transforms import ImageTransform

    manifest = read_manifest(shards)
    sizes = [shard.num_samples for shard in manifest.shards]
    dataset = TrainingSet(
        [DataSet(SampleReader(manifest))],
        Mixture([sizes], [1.0], seed=0, lanes=batch, window=64),
        ImageTransform(SIZE, CROP, flip=False),
        train_tokenizer(["a photograph of something"], CONTEXT, vocabulary=300),
        seed=0,
    )
    steps = range(UNCOUNTED + batches)
    return TrainingLoader(dataset, steps, batch_size=batch, rank=0, ranks=1, workers=workers)


def open_clips(shards: Path, workers: int, batch: int, batches: int) -> Iterable[object]:
    """Return open_clip's loader, with its own transform of images and its own tokenizer."""
    from open_clip import SimpleTokenizer, image_transform
    from open_clip_train.data import get_wds_dataset

    tars = sorted(shards.glob("*.tar"))
    braces = f"{shards}/{tars[0].stem[:-6]}{{{tars[0].stem[-6:]}..{tars[-1].stem[-6:]}}}.tar"
    args = SimpleNamespace(
        train_data=braces,
        train_num_samples=(UNCOUNTED + batches) * batch,
        train_data_upsampling_factors=None,
        dataset_resampled=False,
        seed=0,
        batch_size=batch,
        workers=workers,
        world_size=1,
    )
    transform = image_transform(SIZE, is_train=True, aug_cfg={"scale": CROP})
    tokenizer = SimpleTokenizer(context_length=CONTEXT)
    loader: Iterable[object] = get_wds_dataset(
        args, transform, True, tokenizer=tokenizer
    ).dataloader
    return loader


if __name__ == "__main__":
    main()
