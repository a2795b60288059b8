"""ZeRO 0 to 3: the same losses, and after kill -9 those of a run that was left in peace."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.gpu.sections import Bench
from benchmarks.gpu.tiny import command, history, killed, losses, scenes, words

Losses = dict[int, float]  # by step
STAGES = (0, 1, 2, 3)
KILLED_AT = 15  # steps; checkpoints are every ten
# What ZeRO may change is the order in which gradients are added up.
BETWEEN_STAGES = 1e-4


def measure(bench: Bench) -> None:
    """Train by every ZeRO stage in peace, then killed and resumed, stages beside each other."""
    scenes(bench.work)  # before those who would draw them at the same time
    stages = (0, 3) if bench.small else STAGES
    with ThreadPoolExecutor(len(stages)) as beside:
        trained = {zero: beside.submit(_train, bench, zero) for zero in stages}
        for zero in stages:
            with bench.attempt(f"ZeRO {zero}"):
                whole, resumed = trained[zero].result()
                apart = _apart(whole, trained[0].result()[0])
                name = f"ZeRO {zero}: losses beside ZeRO 0"
                bench.record(name, apart, "relative", ok=apart <= BETWEEN_STAGES)
                apart = _apart(resumed, whole)
                bench.record(f"ZeRO {zero}: losses after kill -9", apart, "relative", ok=apart == 0)


def _train(bench: Bench, zero: int) -> tuple[Losses, Losses]:
    """Return the losses of a run, and of one that is killed between two checkpoints and resumed."""
    whole, run = bench.work / f"whole{zero}", bench.work / f"killed{zero}"
    command(*_words(bench, zero, whole))
    if not killed(_words(bench, zero, run), lambda: _steps(run) >= KILLED_AT):
        raise RuntimeError(f"ZeRO {zero} ended before it was killed")
    command(*_words(bench, zero, run))
    return losses(whole), losses(run)


def _words(bench: Bench, zero: int, run: Path) -> list[str]:
    return words(bench.work, run, f"training.zero={zero}", "training.deterministic=true")


def _steps(run: Path) -> int:
    rows = history(run)
    return int(rows[-1]["step"]) if rows else 0


def _apart(one: Losses, other: Losses) -> float:
    """Return the greatest relative difference of two runs' losses; infinite if steps differ."""
    if one.keys() != other.keys():
        return float("inf")
    return max(abs(one[step] / other[step] - 1) for step in one)
