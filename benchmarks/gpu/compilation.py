"""Compilation of Triton's kernels for this GPU, in all processes at once: what follows finds them.

On a CPU one of them, for an H100 that is not there.
"""

import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import product

import torch

from benchmarks.gpu.sections import Bench
from xmodal.objectives.pairwise.triton_build import WITH_LARGE_SHARED_MEMORY, compile_ahead
from xmodal.objectives.pairwise.triton_engine import FAMILIES
from xmodal.objectives.pairwise.triton_launch import CANDIDATES

DTYPES = (torch.bfloat16, torch.float32)
H100 = 90


def measure(bench: Bench) -> None:
    """Compile every family in each precision and shape of blocks that the GPU may choose."""
    capability = H100
    if bench.device == "cuda":
        major, minor = torch.cuda.get_device_capability()
        capability = 10 * major + minor
    shapes = range(len(CANDIDATES[capability in WITH_LARGE_SHARED_MEMORY]))
    wanted = list(product(range(len(FAMILIES)), range(len(DTYPES)), shapes, [capability]))
    wanted = wanted[:1] if bench.small else wanted
    begun, most = time.monotonic(), 0
    workers = max(1, min(len(wanted), (os.cpu_count() or 2) - 1))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as beside:
        for shared in beside.map(compiled, wanted):
            most = max(most, shared)
    seconds = time.monotonic() - begun
    bench.record(f"{len(wanted)} kernels for sm_{capability}", seconds, "s")
    bench.record("greatest shared memory of a block", most / 1024, "KiB")


def compiled(wanted: tuple[int, int, int, int]) -> int:
    """Compile a kernel into Triton's cache; return the bytes of its shared memory."""
    family, dtype, shape, capability = wanted
    chosen = CANDIDATES[capability in WITH_LARGE_SHARED_MEMORY][shape]
    kernel = compile_ahead(FAMILIES[family], DTYPES[dtype], capability, chosen)
    return int(kernel.metadata.shared)
