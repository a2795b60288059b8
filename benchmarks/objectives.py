"""Time and memory of objectives over all pairs, each beside its peer, in one run.

    make bench
    .venv/bin/python -m benchmarks.objectives [--quick | --huge] [--json FILE] [--figure FILE]
    .venv/bin/python -m benchmarks.objectives --only multi_similarity smooth_ap

InfoNCE and the sigmoid loss are held against open_clip's, which lives in an environment of its own
(.venv-peers, which `make bench` makes); the hardest triplet, JSD (also of maps of 49 positions),
Donsker-Varadhan, multi-similarity, smooth AP, 100,000 proxies, InfoNCE at four widths and late
interaction of 49 × 32 vectors (of 128 numbers; of others 512) against their formulas over the full
matrix. Every measurement is a process of its own; both sides take turns, and the median counts. On
a CPU one thread computes and its processor time is what is compared, so that neighbours on the
machine matter less; 32k takes two threads, and memory is the growth of the peak.
`--only` measures the objectives that it names, and their memory at four times the batch.
`--huge` is batch 262,144 (a full matrix of 256 GiB) at width 64.
"""

import argparse
import json
import socket
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.beside import PEERS, console, require_peers, row, run, say
from benchmarks.measure import CLASSES, POSITIONS, WORDS


@dataclass(frozen=True)
class Comparison:
    """An objective at a batch size against its peer."""

    objective: str
    batch: int
    other: str  # peer or naive
    repeats: int = 3
    threads: int = 1
    ranks: int = 1

    @property
    def name(self) -> str:
        return f"{self.objective}/{self.batch}" + ("/2ranks" if self.ranks == 2 else "")


FULL = [
    Comparison("infonce", 4096, "peer", repeats=5),
    Comparison("infonce", 16384, "peer"),
    Comparison("infonce", 32768, "peer", repeats=1, threads=2),
    Comparison("infonce", 16384, "peer", ranks=2),
    Comparison("infonce_bf16", 16384, "peer"),
    Comparison("sigmoid", 16384, "peer"),
    Comparison("hardest_triplet", 16384, "naive"),
    Comparison("jsd", 16384, "naive"),
    Comparison("dv", 16384, "naive"),
    Comparison("local_jsd", 512, "naive"),
    Comparison("affinity", 4096, "naive"),
    Comparison("multi_similarity", 16384, "naive"),
    Comparison("smooth_ap", 16384, "naive"),
    Comparison("norm_softmax", 2048, "naive"),
    Comparison("late_interaction", 1024, "naive", repeats=1),
    Comparison("matryoshka", 4096, "naive"),
]
QUICK = [
    Comparison("infonce", 2048, "peer", repeats=1),
    Comparison("infonce", 2048, "peer", repeats=1, ranks=2),
    Comparison("sigmoid", 2048, "peer", repeats=1),
    Comparison("hardest_triplet", 2048, "naive", repeats=1),
    Comparison("jsd", 2048, "naive", repeats=1),
]
# Whose memory is shown to grow with the batch and not with its square.
LINEAR = {
    "infonce": 16384, "sigmoid": 16384, "hardest_triplet": 16384, "jsd": 16384, "local_jsd": 512,
    "affinity": 1024, "multi_similarity": 8192, "smooth_ap": 8192, "late_interaction": 256,
    "matryoshka": 4096,
}  # fmt: skip
DIMS = {"late_interaction": 128}  # of others 512
CURVE = [1024, 2048, 4096, 8192, 16384]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small batches, under a minute")
    parser.add_argument("--huge", action="store_true", help="batch 262,144, a quarter of an hour")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of these objectives alone")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--figure", type=Path, help="write a PNG of time and memory to this file")
    args = parser.parse_args()
    if args.only:
        rows = only(args.only)
    elif args.huge:
        rows = huge()
    else:
        require_peers()
        rows = [row for one in (QUICK if args.quick else FULL) for row in compare(one)]
        rows += gradient_cache(256 if args.quick else 2048, repeats=1 if args.quick else 3)
        rows += [] if args.quick else linearity(list(LINEAR))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))
    if args.figure:
        draw(args.figure, CURVE[:2] if args.quick else CURVE)


def only(names: list[str]) -> list[dict[str, Any]]:
    """Measure some objectives of the full table."""
    chosen = [one for one in FULL if one.objective in names]
    if any(one.other == "peer" for one in chosen):
        require_peers()
    rows = [row for one in chosen for row in compare(one)]
    return rows + linearity([name for name in names if name in LINEAR])


def compare(comparison: Comparison) -> list[dict[str, Any]]:
    """Measure both sides in turns; print and return the rows of time and memory."""
    found: dict[str, list[dict[str, Any]]] = {"ours": [], comparison.other: []}
    for _ in range(comparison.repeats):
        for side, results in found.items():
            results.append(measure(comparison, side))
    # On several ranks waiting for one another is part of the time.
    kind = "wall" if comparison.ranks > 1 or comparison.threads > 1 or on_gpu(found) else "cpu"
    hardware = found["ours"][0]["hardware"]
    rows = [
        row(f"{comparison.name}/{what}", *medians(found, measured), unit, hardware)
        for what, measured, unit in (("time", kind, "s"), ("memory", "memory", "MiB"))
    ]
    for one in rows:
        say(one)
    ours, other = (statistics.median(one["value"] for one in side) for side in found.values())
    fraction = of_product_speed(comparison, found["ours"][0])
    console.print(
        f"    values {ours:.6f} and {other:.6f}; {fraction:.0%} of the speed of a matrix product, "
        f"{found['ours'][0]['product'] / 1e9:,.0f} GFLOP/s"
    )
    return rows


def medians(found: dict[str, list[dict[str, Any]]], kind: str) -> tuple[float, float]:
    ours, other = (statistics.median(one[kind] for one in side) for side in found.values())
    return ours, other


def on_gpu(found: dict[str, list[dict[str, Any]]]) -> bool:
    return "threads" not in found["ours"][0]["hardware"]


def of_product_speed(comparison: Comparison, result: dict[str, Any]) -> float:
    """Return which share of a matrix product's speed the least that must be multiplied takes.

    Log-sum-exp multiplies four times (scores twice, a gradient a side), what is additive three
    times, the hardest triplet once, multi-similarity once for its mining beside a log-sum-exp, and
    affinity ten times (a log-sum-exp of both models, and the sums of both by the teacher).
    """
    additive = {"sigmoid": 3, "jsd": 3, "local_jsd": 3, "dv": 3, "hardest_triplet": 1}
    products = additive | {"multi_similarity": 5, "affinity": 10}
    columns = {
        "local_jsd": comparison.batch * POSITIONS,
        "late_interaction": comparison.batch * POSITIONS * WORDS,
        "norm_softmax": 2 * CLASSES,
    }
    scores = comparison.batch * columns.get(comparison.objective, comparison.batch)
    multiplied = 2 * scores * DIMS.get(comparison.objective, 512)
    operations = products.get(comparison.objective, 4) * multiplied
    return operations / comparison.ranks / result["wall"] / result["product"]


def linearity(names: list[str]) -> list[dict[str, Any]]:
    """Show that four times the batch takes about four times the memory, not sixteen."""
    rows = []
    for objective in names:
        batch = LINEAR[objective]
        small, large = (
            measure(Comparison(objective, size, "ours", threads=2), "ours")
            for size in (batch, 4 * batch)
        )
        name = f"{objective}/{4 * batch}/memory"
        rows.append(row(name, large["memory"], 4 * small["memory"], "MiB", large["hardware"]))
        say(rows[-1], peer=f"four times {batch:,}'s")
    return rows


def gradient_cache(batch: int, repeats: int, micro: int = 64) -> list[dict[str, Any]]:
    """Measure a step in micro-batches: its time beside plain accumulation's, its memory beside
    the whole batch's.
    """
    command = [sys.executable, "-m", "benchmarks.measure_cache"]
    found: dict[str, list[dict[str, Any]]] = {"ours": [], "naive": [], "whole": []}
    for _ in range(repeats):
        for side, results in found.items():
            results.append(run([*command, side, str(batch), str(micro)], [{}]))
    rows = []
    for what, other, kind, unit in (
        ("time", "naive", "cpu", "s"),
        ("memory", "whole", "memory", "MiB"),
    ):
        both = {"ours": found["ours"], other: found[other]}
        hardware = found["ours"][0]["hardware"]
        rows.append(row(f"gradient_cache/{batch}/{what}", *medians(both, kind), unit, hardware))
        say(rows[-1], peer={"naive": "accumulation", "whole": "whole batch"}[other])
    losses = [found[side][0]["value"] for side in ("ours", "whole")]
    console.print(f"    loss by the cache {losses[0]:.6f}, of the whole batch {losses[1]:.6f}")
    return rows


def huge() -> list[dict[str, Any]]:
    """Measure a batch whose full matrix no machine here could hold."""
    comparison = Comparison("infonce", 262_144, "ours")
    found = measure(comparison, "ours", dim=64)
    matrix = 4 * comparison.batch**2 / 2**20
    one = row(f"{comparison.name}/memory", found["memory"], matrix, "MiB", found["hardware"])
    say(one, peer="one full matrix")
    console.print(f"    {found['wall']:.0f} s, value {found['value']:.6f}")
    return [one]


def measure(comparison: Comparison, side: str, dim: int | None = None) -> dict[str, Any]:
    """Run a measurement in processes of its own, and return what rank 0 says."""
    python = str(PEERS) if side == "peer" else sys.executable
    command = [python, "-m", "benchmarks.measure", comparison.objective, side]
    dim = dim or DIMS.get(comparison.objective, 512)
    command += [str(comparison.batch), "--dim", str(dim), "--threads", str(comparison.threads)]
    return run(command, places(comparison.ranks))


def places(ranks: int) -> list[dict[str, str]]:
    """Return what a launcher would set for each rank."""
    if ranks == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    return [
        address | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
        for rank in range(ranks)
    ]


def draw(path: Path, batches: list[int]) -> None:
    """Draw time and memory of InfoNCE over batch size, both sides."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for side, label, style in (("ours", "xmodal", "o-"), ("peer", "open_clip", "s--")):
        found = [measure(Comparison("infonce", batch, "peer"), side) for batch in batches]
        for axis, kind in zip(axes, ("memory", "cpu"), strict=True):
            axis.plot(batches, [one[kind] for one in found], style, label=label)
    for axis, title in zip(axes, ("growth of peak memory, MiB", "processor time, s"), strict=True):
        axis.set(title=title, xlabel="batch", xscale="log", yscale="log")
        axis.set_xticks(batches, [f"{batch:,}" for batch in batches], minor=False)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.suptitle("InfoNCE, forward and backward, D = 512, float32")
    figure.savefig(path, dpi=120)
    console.print(f"wrote {path}")


if __name__ == "__main__":
    main()
