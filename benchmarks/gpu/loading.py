"""The loader: batches that reach the device as the workers wrote them, and their rate."""

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from benchmarks.gpu.photographs import photograph_shards
from benchmarks.gpu.sections import Bench
from benchmarks.measure_loader import measure as rate_of
from benchmarks.measure_loader import ours
from xmodal.data.batch import Batch
from xmodal.training.device_batches import device_batches

Tensors = dict[str, Tensor]
BUSY = 2**12  # rows of the products that the device computes while batches are copied
WATCHED = 10  # batches


def measure(bench: Bench) -> None:
    """Compare batches on the device with the same ones in memory, then count samples a second."""
    count, batch, batches = (64, 16, 12) if bench.small else (512, 256, 60)
    workers = max(1, min(12, (os.cpu_count() or 2) - 1))
    shards = photograph_shards(bench.work, count)
    host = [_cloned(one) for one in _batches(shards, workers, batch)]
    there = list(_on_device(_batches(shards, workers, batch), bench))
    wrong = sum(not _same(*both) for both in zip(host, there, strict=True))
    bench.record(f"batches of {len(host)} that changed", wrong, "batches", ok=wrong == 0)
    found = rate_of(ours(shards, workers, batch, batches), batch)
    bench.record(f"loader, {workers} workers", found["rate"], "samples/s")
    bench.record("loader, processor time", found["cpu"], "ms/sample")


def _batches(shards: Path, workers: int, batch: int) -> Generator[Batch]:
    loader = ours(shards, workers, batch, batches=WATCHED)
    return cast("Generator[Batch]", iter(loader))


def _on_device(batches: Generator[Batch], bench: Bench) -> Iterator[Tensors]:
    """Yield batches as a training step has them, on a device that is busy.

    The slot that each was in is filled again while its copy may wait for the device.
    """
    size = 64 if bench.small else BUSY
    a = torch.zeros(size, size, device=bench.device)
    for batch in device_batches(batches, torch.device(bench.device)):
        for _ in range(20):
            a = a @ a
        # On a CPU nothing is copied: the batch lies in its slot.
        yield _cloned(batch) if bench.small else _tensors(batch)


def _same(host: Tensors, there: Tensors) -> bool:
    return all(value.equal(there[name].cpu()) for name, value in host.items())


def _cloned(batch: Batch) -> Tensors:
    return {name: value.clone() for name, value in _tensors(batch).items()}


def _tensors(batch: Batch) -> Tensors:
    return {name: value for name, value in vars(batch).items() if isinstance(value, Tensor)}
