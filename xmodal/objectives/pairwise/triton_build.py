"""Compiles the kernel ahead of time, for a GPU that need not be there.

    python -m xmodal.objectives.pairwise.triton_build 90

The number is the GPU's compute capability: 80 is an A100, 90 an H100 or H200, 100 a B200. What is
compiled lies in Triton's cache (TRITON_CACHE_DIR), where a run finds it: made once, for an image or
a shared home folder, it spares the first step of every run the time.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from xmodal.objectives.pairwise.triton_engine import FAMILIES, Family
from xmodal.objectives.pairwise.triton_kernel import pair_kernel
from xmodal.objectives.pairwise.triton_launch import CANDIDATES

WITH_LARGE_SHARED_MEMORY = (90, 100, 103)


def build(capability: int) -> Iterator[Any]:
    """Compile every family in every shape of blocks that a GPU may choose."""
    for family in FAMILIES:
        for dtype in (torch.bfloat16, torch.float32):
            for chosen in CANDIDATES[capability in WITH_LARGE_SHARED_MEMORY]:
                yield compile_ahead(family, dtype, capability, chosen)


def compile_ahead(
    family: Family, dtype: torch.dtype, capability: int, chosen: triton.Config
) -> Any:
    """Return the compiled kernel of a family, as a run with ids would have it compiled."""
    vectors, whole = torch.float32, 16  # where a whole number is a multiple of 16, code is faster
    with _target(capability):
        return pair_kernel.warmup(
            *(dtype, dtype, vectors, torch.int32, torch.int32, vectors, vectors, dtype),
            *(0.0, 0.0, whole, whole, vectors, vectors, whole, whole, whole, whole),
            **family.constants(has_ids=True),
            **chosen.all_kwargs(),
            grid=(1,),
        )


@contextmanager
def _target(capability: int) -> Iterator[None]:
    """Let Triton compile for a GPU as if it were there."""
    target = GPUTarget("cuda", capability, 32)
    pretended = SimpleNamespace(
        get_current_target=lambda: target,
        get_current_device=lambda: capability,  # Triton keeps kernels by device
        get_current_stream=lambda _: 0,
    )
    driver.set_active(pretended)
    try:
        yield
    finally:
        driver.set_active(None)  # found anew when it is next asked for


if __name__ == "__main__":
    for number, kernel in enumerate(build(int(sys.argv[1])), 1):
        print(f"{number} {kernel.name} {kernel.metadata.shared} bytes of shared memory")
