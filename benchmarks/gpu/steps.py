"""Every method and loss: three steps in bf16 near those of the CPU, without waits for the device.

On a CPU the waits are those of the pretended device of tests/training/test_stalls.py.
"""

import os
import subprocess
import sys
from collections import Counter

import torch

from benchmarks.gpu.method_runs import METHODS, STEPS, losses, make_shards, train
from benchmarks.gpu.runner import ROOT
from benchmarks.gpu.sections import Bench
from benchmarks.gpu.testing import run_tests
from benchmarks.gpu.tiny import ON_CPU
from benchmarks.gpu.waits import waits_in_steps
from xmodal.distributed.environment import Environment, start

REFERENCE = "float32_on_cpu"
# Of losses that add up hinges of scores near each other, which bf16 rounds to 8 bits.
APART = 0.03
BUDGET = 1.0  # waits a step: the one for what is logged


def measure(bench: Bench) -> None:
    """Train all methods in bf16 here and in float32 on the CPU, method by method."""
    if bench.small:  # first: they count on a process that has trained nothing
        run_tests(bench, "-k", "waits_for_nothing", "tests/training/test_stalls.py")
    make_shards(bench.work)
    words = ["-m", "benchmarks.gpu.method_runs", str(bench.work), REFERENCE, "fp32"]
    with subprocess.Popen(
        [sys.executable, *words],
        cwd=ROOT,
        env=os.environ | ON_CPU,
        stdout=subprocess.PIPE,
        text=True,
    ) as reference:
        assert reference.stdout
        environment = start()  # sets variables that are this process's alone
        for method in METHODS:
            waits = Counter[str]()
            with bench.attempt(f"{method}: training"):
                waits = _train(method, bench, environment)
            if f"{method}\n" not in reference.stdout:  # which reads until then
                raise RuntimeError(f"the CPU's {method} has failed")
            with bench.attempt(f"{method}: losses beside the CPU's"):
                _compare(method, bench, waits)


def _train(method: str, bench: Bench, environment: Environment) -> Counter[str]:
    """Train a method in bf16; return the waits in its steps."""
    given = (method, bench.work, "bf16", "bf16", environment)
    if not torch.cuda.is_available():
        train(*given)
        return Counter()
    with waits_in_steps(STEPS) as found:
        train(*given)
    return found


def _compare(method: str, bench: Bench, waits: Counter[str]) -> None:
    found, expected = (losses(method, bench.work, name) for name in ("bf16", REFERENCE))
    apart = max(
        abs(ours[name] - value) / max(1.0, abs(value))
        for ours, theirs in zip(found, expected, strict=True)
        for name, value in theirs.items()
    )
    steps = len(expected)
    bench.record(
        f"{method}: losses beside the CPU's", apart, ok=apart <= APART, note=f"{steps} steps"
    )
    if bench.device == "cuda":
        each = waits.total() / (steps - steps // STEPS)
        worst = ", ".join(f"{count} at {place}" for place, count in waits.most_common(3))
        bench.record(f"{method}: waits", each, "a step", ok=each <= BUDGET, note=worst)
