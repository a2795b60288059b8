"""Time and memory of work on a device."""

import statistics
import time
from collections.abc import Callable

import torch

from benchmarks import measure

GIB = 2**30


def seconds_of(work: Callable[[], object], device: str, *, repeats: int, warmup: int = 3) -> float:
    """Return the median seconds that some work takes, once what is done once is done.

    On a GPU, of its own clock.
    """
    for _ in range(warmup):
        work()
    once = _on_gpu if device == "cuda" else _on_cpu
    return statistics.median(once(work) for _ in range(repeats))


def _on_gpu(work: Callable[[], object]) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000


def _on_cpu(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def peak_of(work: Callable[[], object]) -> float:
    """Return the peak of memory, GiB, while some work is done."""
    measure.reset_peak()
    work()
    measure.synchronise()
    return measure.peak() / GIB


def growth_of(work: Callable[[], object]) -> float:
    """Return GiB by which the peak rises above what was in use before some work."""
    before = measure.reset_peak() / GIB
    return peak_of(work) - before
