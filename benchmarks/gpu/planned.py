"""Memory that `launch/plan.py` predicts of a step, which a GPU's own figure is held against."""

import json

import torch

from benchmarks.gpu.sections import Bench
from benchmarks.gpu.timing import GIB
from benchmarks.gpu.tiny import ON_CPU, command
from xmodal.costs.hardware import of_driver

WITHIN = 0.15  # of what a step takes
OUTSIDE = "CUDA and NCCL (assumed)"  # what no tensor holds


def planned_memory(words: tuple[str, ...], bench: Bench) -> float | None:
    """Return GiB of tensors of a step of a recipe with these keys; None for an unknown GPU."""
    known = of_driver(torch.cuda.get_device_name()) if bench.device == "cuda" else None
    if bench.device == "cuda" and known is None:
        return None
    hardware = ["--gpus", "1", "--gpu", known.name if known else "cpu", "--samples", "100000"]
    said = command("launch/plan.py", "clip", *words, *hardware, "--json", variables=ON_CPU)
    memory: dict[str, float] = json.loads(said)["stages"][0]["memory"]
    return sum(size for name, size in memory.items() if name != OUTSIDE) / GIB


def record_planned(name: str, planned: float | None, peak: float, bench: Bench) -> None:
    """Record what was planned; on a GPU, whether it was near the peak of a step."""
    if planned is None:
        return
    near = None if bench.small else abs(planned / peak - 1) <= WITHIN
    bench.record(f"{name}: planned memory", planned, "GiB", ok=near)
