"""Losses over all pairs of 32k and 64k beside those of open_clip, in one run.

Matrix products are in bfloat16 on both sides: ours by the objective's key, the others' under
autocast. Where open_clip is not installed, the formula over the full matrix takes its place.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor

from benchmarks.full_matrix import naive_hardest_triplet, naive_info_nce, naive_sigmoid
from benchmarks.gpu.machine import product_rate
from benchmarks.gpu.sections import Bench
from benchmarks.gpu.timing import growth_of, seconds_of
from benchmarks.measure import (
    Loss,
    both_ways,
    full_matrix,
    open_clip,
    ours,
    pairs,
)
from xmodal.precision import set_precision

DIM = 512
BF16 = "bfloat16"


@dataclass(frozen=True)
class Comparison:
    """A loss of ours and what it is compared with.

    `num_matmuls` is how many times all pairs have to be multiplied at least, both passes together.
    """

    name: str
    ours: Callable[[int, int], Loss]
    peer: str  # of open_clip's; none where it is empty
    formula: Callable[[int, int], Loss]
    num_matmuls: int


COMPARISONS = (
    Comparison(
        "InfoNCE",
        ours("info_nce", matmul_dtype=BF16),
        "ClipLoss",
        full_matrix(naive_info_nce),
        num_matmuls=4,
    ),
    Comparison(
        "sigmoid",
        ours("sigmoid", matmul_dtype=BF16),
        "SigLipLoss",
        full_matrix(naive_sigmoid),
        num_matmuls=3,
    ),
    Comparison(
        "triplet, hardest",
        ours("triplet", negatives="hardest", warmup=0, matmul_dtype=BF16),
        "",
        full_matrix(naive_hardest_triplet),
        num_matmuls=1,
    ),
)


def measure(bench: Bench) -> None:
    """Record time, memory and share of the matrix-product rate of each loss, and the other's."""
    set_precision(tf32=True)
    rate = product_rate(bench, "fp32" if bench.small else "bf16")
    for batch in (512, 2048) if bench.small else (32_768, 65_536):
        x, y = pairs(batch, DIM, 0, 1)
        for one in COMPARISONS:
            with bench.attempt(f"{one.name} {batch:,}"):
                _compare(one, x, y, rate, bench)
            torch.cuda.empty_cache()


def _compare(one: Comparison, x: Tensor, y: Tensor, rate: float, bench: Bench) -> None:
    """Record a loss and what it is compared with, beside FLOP/s of matrix products."""
    name = f"{one.name} {len(x):,}"
    seconds, memory = _record(f"{name}: ours", one.ours(0, 1), x, y, bench)
    flops = one.num_matmuls * 2 * len(x) ** 2 * DIM
    bench.record(f"{name}: share of the matrix-product rate", flops / seconds / rate)
    with_open_clip = bool(one.peer and find_spec("open_clip"))
    other = one.peer if with_open_clip else "full matrix"
    peer = open_clip(one.peer) if with_open_clip else one.formula
    try:
        theirs = _record(f"{name}: {other}", _in_bf16(peer(0, 1), bench), x, y, bench)
    except torch.OutOfMemoryError:
        bench.record(f"{name}: {other}", "out of memory")
        return
    bench.record(f"{name}: time beside {other}", seconds / theirs[0])
    bench.record(f"{name}: memory beside {other}", memory / theirs[1])


def _record(name: str, loss: Loss, x: Tensor, y: Tensor, bench: Bench) -> tuple[float, float]:
    """Record and return the seconds and the GiB of both passes."""

    def work() -> Tensor:
        x.grad = y.grad = None
        return both_ways(loss, x, y)

    seconds = seconds_of(work, bench.device, repeats=2 if bench.small else 5, warmup=2)
    memory = max(growth_of(work), 1e-6)
    bench.record(f"{name}, time", 1000 * seconds, "ms")
    bench.record(f"{name}, memory", memory, "GiB")
    return seconds, memory


def _in_bf16(loss: Loss, bench: Bench) -> Loss:
    def under_autocast(x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast(bench.device, torch.bfloat16):
            return loss(x, y)

    return under_autocast
