"""Blocks and programs of Triton's kernel, and its launch.

A block's shape decides how fast the kernel is, and in the last bits what it returns. On a GPU a
large tile tries the candidates the first time that a function meets a width, and Triton keeps the
fastest on disk, beside the compiled kernels. With `torch.use_deterministic_algorithms`, and for
small tiles, the shape is fixed by the chip's shared memory.
"""

from typing import Any

import torch
import triton
from torch import Tensor
from triton.runtime import driver

from xmodal.objectives.pairwise.triton_kernel import pair_kernel

LARGE_SHARED_MEMORY = 200 * 1024  # bytes a block may have on H100, B200 and later servers' chips
WORTH_TUNING = 1024  # rows and columns of a tile


def blocks(rows: int, columns: int, row_bytes: int, **options: int) -> triton.Config:
    """Return a shape of blocks: rows and columns of scores, bytes of a row fetched at a time."""
    shape = {"block_rows": rows, "block_columns": columns, "block_bytes": row_bytes}
    return triton.Config(shape, **options)


# By whether the chip has large shared memory, and by the bytes of a number.
FIXED = {
    (False, 2): blocks(128, 128, 64, num_warps=8, num_stages=3),
    (False, 4): blocks(128, 64, 64, num_warps=8, num_stages=3),
    (True, 2): blocks(128, 128, 128, num_warps=8, num_stages=3),
    (True, 4): blocks(128, 128, 128, num_warps=8, num_stages=3),
}
CANDIDATES = {
    False: [FIXED[False, 2], FIXED[False, 4]],
    True: [
        FIXED[True, 2],
        blocks(128, 256, 128, num_warps=8, num_stages=3),
        # Two programs a processor: one multiplies while the other takes exponentials.
        blocks(128, 128, 128, num_warps=8, num_stages=3, maxnreg=128),
    ],
}
SMALLEST = {"block_rows": 128, "block_columns": 64}

_tuned_kernel = triton.autotune(
    CANDIDATES[False] + CANDIDATES[True],
    key=["name", "width"],
    prune_configs_by={"early_config_prune": lambda _, given, **__: CANDIDATES[_large(given["x"])]},
    cache_results=True,
)(pair_kernel)


def launch(
    x: Tensor, shape: tuple[int, int], vectors: tuple[int, int], *arguments: Any, **constants: Any
) -> tuple[Tensor, Tensor]:
    """Run the kernel on a tile of `shape`, and return its blocks' vectors.

    They are (vectors of rows, blocks across, rows) and (vectors of columns, blocks down, columns).
    """
    rows, columns = shape
    # Programs fetch by descriptors that they make themselves, in memory of the current thread's.
    triton.set_allocator(lambda size, *_: torch.empty(size, dtype=torch.int8, device=x.device))
    fixed = None if _may_tune(x, shape) else fixed_blocks(x)
    down, across = _blocks_of(shape, fixed.kwargs if fixed else SMALLEST)
    of_rows = torch.empty(vectors[0], across, rows, device=x.device)
    of_columns = torch.empty(vectors[1], down, columns, device=x.device)
    kernel, options = (pair_kernel, fixed.all_kwargs()) if fixed else (_tuned_kernel, {})
    kernel[lambda chosen: (_programs(x, shape, chosen),)](
        *arguments, of_rows, of_columns, *shape, down, across, **constants, **options
    )
    if not fixed:
        down, across = _blocks_of(shape, _tuned_kernel.best_config.kwargs)
    return of_rows[:, :across], of_columns[:, :down]


def fixed_blocks(x: Tensor) -> triton.Config:
    """Return the shape of blocks that is not measured."""
    return FIXED[_large(x), x.element_size()]


def _large(x: Tensor) -> bool:
    return x.is_cuda and _properties(x)["max_shared_mem"] >= LARGE_SHARED_MEMORY


def _may_tune(x: Tensor, shape: tuple[int, int]) -> bool:
    large = min(shape) >= WORTH_TUNING
    return x.is_cuda and large and not torch.are_deterministic_algorithms_enabled()


def _blocks_of(shape: tuple[int, int], chosen: dict[str, Any]) -> tuple[int, int]:
    rows, columns = shape
    return triton.cdiv(rows, chosen["block_rows"]), triton.cdiv(columns, chosen["block_columns"])


def _programs(x: Tensor, shape: tuple[int, int], chosen: dict[str, Any]) -> int:
    """Return how many programs run at once: each takes one block after another."""
    down, across = _blocks_of(shape, chosen)
    a_processor = max(1, 128 * 256 // (chosen["block_rows"] * chosen["block_columns"]))
    processors = _properties(x)["multiprocessor_count"] if x.is_cuda else 2
    return min(down * across, processors * a_processor)


def _properties(x: Tensor) -> dict[str, int]:
    return driver.active.utils.get_device_properties(x.device.index)
