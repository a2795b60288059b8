"""The machine: its name, its versions, and the rate of plain matrix products."""

import platform
from importlib.metadata import version

import torch

from benchmarks.gpu.sections import Bench
from benchmarks.gpu.timing import seconds_of
from benchmarks.measure import hardware
from xmodal.costs.hardware import of_driver
from xmodal.errors import UserError

VERSIONS = ("torch", "triton", "deepspeed", "timm")
PRECISIONS = {"bf16": torch.bfloat16, "tf32": torch.float32, "fp32": torch.float32}


def measure(bench: Bench) -> None:
    """Record what the numbers of this run are of."""
    if bench.device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "there is no GPU here; make gpu DEVICE=cpu runs every section in small form"
        )
    bench.record("hardware", hardware())
    bench.record("Python", platform.python_version())
    for name in VERSIONS:
        bench.record(name, version(name))
    if bench.device == "cuda":
        bench.record("CUDA", str(torch.version.cuda))
        bench.record("memory", torch.cuda.get_device_properties(0).total_memory / 2**30, "GiB")
    for precision in PRECISIONS if bench.device == "cuda" else ("fp32",):
        rate = product_rate(bench, precision)
        bench.record(f"matrix product {precision}", rate / 1e12, "TFLOP/s")


def product_rate(bench: Bench, precision: str) -> float:
    """Return FLOP/s of a large matrix product of random numbers."""
    size = 1024 if bench.small else 8192
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    a, b = torch.randn(2, size, size, device=bench.device, dtype=PRECISIONS[precision])
    return 2 * size**3 / seconds_of(lambda: a @ b, bench.device, repeats=10)


def peak_rate(bench: Bench, precision: str) -> float:
    """Return FLOP/s of the GPU by its data sheet; of others, those of a matrix product."""
    gpu = of_driver(torch.cuda.get_device_name()) if bench.device == "cuda" else None
    return gpu.peak[precision] if gpu else product_rate(bench, precision)
