"""ZeRO 0 to 3: the same losses, and after kill -9 those of a run that was left in peace."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.gpu.sections import Bench
from benchmarks.gpu.tiny import command, history, killed, losses, scenes, words

STAGES = (0, 1, 2, 3)
KILLED_AT = 15  # steps; checkpoints are every ten
# What ZeRO may change is the order in which gradients are added up.
BETWEEN_STAGES = 1e-4


def measure(bench: Bench) -> None:
    """Train every ZeRO stage in peace, then killed and resumed, stages beside each other."""
    scenes(bench.work)  # before those who would draw them at the same time
    stages = (0, 3) if bench.small else STAGES
    with ThreadPoolExecutor(2 if bench.small else len(stages)) as beside:
        whole = dict(zip(stages, beside.map(lambda zero: _whole(bench, zero), stages), strict=True))
        for zero in stages:
            apart = _apart(whole[zero], whole[0])
            name = f"ZeRO {zero}: losses beside ZeRO 0"
            bench.record(name, apart, "relative", ok=apart <= BETWEEN_STAGES)
        resumed = beside.map(lambda zero: _resumed(bench, zero), stages)
        for zero, found in zip(stages, resumed, strict=True):
            apart = _apart(found, whole[zero])
            bench.record(f"ZeRO {zero}: losses after kill -9", apart, "relative", ok=apart == 0)


def _whole(bench: Bench, zero: int) -> dict[int, float]:
    run = bench.work / f"whole{zero}"
    command(*_words(bench, zero, run))
    return losses(run)


def _resumed(bench: Bench, zero: int) -> dict[int, float]:
    """Return the losses of a run that is killed between two checkpoints, and given again."""
    run = bench.work / f"killed{zero}"
    if not killed(_words(bench, zero, run), lambda: _steps(run) >= KILLED_AT):
        raise RuntimeError(f"ZeRO {zero} ended before it was killed")
    command(*_words(bench, zero, run))
    return losses(run)


def _words(bench: Bench, zero: int, run: Path) -> list[str]:
    return words(bench.work, run, f"training.zero={zero}", "training.deterministic=true")


def _steps(run: Path) -> int:
    rows = history(run)
    return int(rows[-1]["step"]) if rows else 0


def _apart(one: dict[int, float], other: dict[int, float]) -> float:
    """Return the greatest relative difference of two runs' losses; infinite if steps differ."""
    if one.keys() != other.keys():
        return float("inf")
    return max(abs(one[step] / other[step] - 1) for step in one)
