"""Objectives in every precision and shape against float64, and the tests that need a GPU."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import TypeAdapter
from torch import Tensor, nn

from benchmarks.gpu.runner import ROOT
from benchmarks.gpu.sections import Bench
from benchmarks.gpu.testing import run_tests
from xmodal.objectives.config import ObjectiveConfig
from xmodal.precision import set_precision

OBJECTIVES: dict[str, dict[str, Any]] = {
    "InfoNCE": {"kind": "info_nce"},
    "sigmoid": {"kind": "sigmoid"},
    "triplet, sum": {"kind": "triplet", "negatives": "sum", "warmup": 0},
    "triplet, hardest": {"kind": "triplet", "negatives": "hardest", "warmup": 0},
    "triplet, semi-hard": {"kind": "triplet", "negatives": "semi_hard", "warmup": 0},
    "margin": {"kind": "margin"},
    "JSD": {"kind": "mutual_information", "estimator": "jsd"},
    "Donsker-Varadhan": {"kind": "mutual_information", "estimator": "dv"},
    "NWJ": {"kind": "mutual_information", "estimator": "nwj"},
}
FLOAT32_ALONE = ("margin",)  # distances: their matrix products have no precision of their own
# Differences of value and gradients (Frobenius norms) that rounding explains.
ALLOWED = {"fp32": 1e-4, "tf32": 2e-2, "bf16": 2e-2}
# Where another negative is chosen because two score alike, a row of the gradient is another one.
CHOSEN = ("triplet, hardest", "triplet, semi-hard")
OF_CHOSEN = {"fp32": 0.05, "tf32": 0.3, "bf16": 0.05}
OF_CHOSEN_ON_CPU = OF_CHOSEN | {"bf16": 0.3}  # where scores are rounded to bf16 too
# Pairs and width: ragged blocks and several tiles.
SHAPES = [(2, 64), (257, 33), (1000, 512), (4097, 768), (9000, 1024)]
SMALL_SHAPES = [(2, 16), (130, 33)]


def measure(bench: Bench) -> None:
    """Record the greatest difference of each objective and precision; run the tests."""
    for precision in ALLOWED if bench.device == "cuda" else ("fp32", "bf16"):
        set_precision(tf32=precision == "tf32")
        for name in OBJECTIVES:
            if precision != "bf16" or name not in FLOAT32_ALONE:
                with bench.attempt(f"{name}, {precision}"):
                    _compare(name, precision, bench)
    set_precision(tf32=False)
    _run_tests(bench)


def _compare(name: str, precision: str, bench: Bench) -> None:
    of_chosen = OF_CHOSEN if bench.device == "cuda" else OF_CHOSEN_ON_CPU
    allowed = (of_chosen if name in CHOSEN else ALLOWED)[precision]
    shapes = SMALL_SHAPES if bench.small else SHAPES
    apart = {shape: _apart(name, precision, *shape, bench.device) for shape in shapes}
    worst = max(apart, key=apart.__getitem__)
    bench.record(
        f"{name}, {precision}: beside float64",
        apart[worst],
        "relative",
        ok=apart[worst] <= allowed,
        note=f"worst of {len(shapes)} shapes: {worst[0]} × {worst[1]}",
    )


def _apart(name: str, precision: str, pairs: int, width: int, device: str) -> float:
    """Return the greatest relative difference of value and gradients from those in float64."""
    x, y, ids = _inputs(pairs, width, device)
    if precision == "bf16":  # both see the same numbers: what differs is the kernels' own
        x, y = x.bfloat16().float(), y.bfloat16().float()
    rounded = {"matmul_dtype": "bfloat16"} if precision == "bf16" else {}
    got = _differentiate(_build(OBJECTIVES[name] | rounded).to(device), x, y, ids)
    exact = _differentiate(
        _build(OBJECTIVES[name]).to(device).double(), x.double(), y.double(), ids
    )
    return max(_relative(ours, theirs) for ours, theirs in zip(got, exact, strict=True))


def _inputs(pairs: int, width: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return x, y (pairs, width) of length 1, and ids (pairs,), every fiftieth image twice."""
    generator = torch.Generator().manual_seed(width)
    x, noise = torch.randn(2, pairs, width, generator=generator)
    ids = torch.randperm(pairs, generator=generator)
    ids[1:-1:50] = ids[::50][: len(ids[1:-1:50])]
    x, y = F.normalize(x, dim=1), F.normalize(x + 2 * noise, dim=1)
    return x.to(device), y.to(device), ids.to(device)


def _build(values: dict[str, Any]) -> nn.Module:
    objective: nn.Module = TypeAdapter(ObjectiveConfig).validate_python(values).build()
    return objective


def _differentiate(
    objective: Callable[..., Tensor], x: Tensor, y: Tensor, ids: Tensor
) -> tuple[Tensor, ...]:
    x, y = x.requires_grad_(), y.requires_grad_()
    value = objective(x, y, ids)
    return value.detach(), *torch.autograd.grad(value, (x, y))


def _relative(ours: Tensor, exact: Tensor) -> float:
    least = torch.finfo(torch.float32).eps
    return float((ours.double() - exact).norm() / exact.norm().clamp(min=least))


def _run_tests(bench: Bench) -> None:
    """Run the tests that need a GPU; on a CPU one that the kernels' interpreter takes."""
    tests = sorted((ROOT / "tests").rglob("test_*.py"))
    marked = [path for path in tests if "mark.gpu" in path.read_text()]
    if bench.device == "cuda":
        run_tests(bench, "-m", "gpu", *map(str, marked))
    else:
        run_tests(bench, "-k", "interpreted_it_finds", "tests/objectives/test_triton.py")
