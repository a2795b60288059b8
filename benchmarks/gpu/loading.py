"""The loader: batches that reach the device as the workers wrote them, and their rate."""

import os
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor

from benchmarks.gpu.photographs import photograph_shards
from benchmarks.gpu.sections import Bench
from benchmarks.measure_loader import measure as rate_of
from benchmarks.measure_loader import ours
from xmodal.data.batch import Batch

Tensors = dict[str, Tensor]
BUSY = 2**12  # rows of the products that the device computes while batches are copied


def measure(bench: Bench) -> None:
    """Compare batches on the device with the same ones in memory, then count samples a second."""
    count, batch, batches = (64, 16, 12) if bench.small else (512, 256, 60)
    workers = max(1, min(12, (os.cpu_count() or 2) - 1))
    shards = photograph_shards(bench.work, count)
    some = cast("Iterable[Batch]", ours(shards, workers, batch, batches=10))
    pairs = [_copied(one, bench) for one in some]
    wrong = sum(not _same(host, there) for host, there in pairs)
    bench.record(f"batches of {len(pairs)} that changed", wrong, "batches", ok=wrong == 0)
    found = rate_of(ours(shards, workers, batch, batches), batch)
    bench.record(f"loader, {workers} workers", found["rate"], "samples/s")
    bench.record("loader, processor time", found["cpu"], "ms/sample")


def _copied(batch: Batch, bench: Bench) -> tuple[Tensors, Tensors]:
    """Return a batch's tensors in memory of their own, and on a device that is busy.

    The slot that they were in is filled again while its copy may wait for the device.
    """
    host = {name: value.clone() for name, value in _tensors(batch).items()}
    if bench.small:  # nothing is copied: the batch lies in its slot
        return host, {name: value.clone() for name, value in _tensors(batch).items()}
    a = torch.zeros(BUSY, BUSY, device=bench.device)
    for _ in range(20):
        a = a @ a
    return host, _tensors(batch.to(torch.device(bench.device)))


def _same(host: Tensors, there: Tensors) -> bool:
    return all(value.equal(there[name].cpu()) for name, value in host.items())


def _tensors(batch: Batch) -> Tensors:
    return {name: value for name, value in vars(batch).items() if isinstance(value, Tensor)}
