"""Evaluation: the ranks and metrics of the GPU are those of the CPU."""

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.sections import Bench
from benchmarks.gpu.timing import seconds_of
from benchmarks.gpu.tiny import COUNTS, ON_CPU, command, launched, words
from xmodal.evaluation.metrics.ranking import Ranks, count_ranks
from xmodal.precision import set_precision

CAPTIONS = 5
# The encoders' last bits differ between devices: a metric may move by a query or two.
OF_A_METRIC = 200 / COUNTS["val"]


def measure(bench: Bench) -> None:
    """Compare ranks of given embeddings, then the metrics of a run that the launcher trained."""
    _ranks(bench, images=200 if bench.small else 5000)
    run = bench.work / "evaluated"
    launched(*words(bench.work, run, "stages.0.length=20 steps"))
    ours, cpu = (_metrics(run, bench.work / name, name) for name in (bench.device, "on_cpu"))
    apart = max(abs(ours[name] - cpu[name]) for name in cpu)
    same = ours.keys() == cpu.keys() and apart <= OF_A_METRIC
    bench.record("metrics beside the CPU's", apart, "points", ok=same)


def _ranks(bench: Bench, images: int) -> None:
    set_precision(tf32=True)  # as in a training in bf16: ranks have to be exact all the same
    v, t, pairs = (each.to(bench.device) for each in _embeddings(images))
    found, expected = count_ranks(v, t, pairs), count_ranks(v.cpu(), t.cpu(), pairs.cpu())
    wrong = sum(int((a.cpu() != b).sum()) for a, b in _sides(found, expected))
    queries = images * (1 + CAPTIONS)
    bench.record(f"ranks of {queries:,} queries that differ", wrong, "queries", ok=wrong == 0)
    seconds = seconds_of(lambda: count_ranks(v, t, pairs), bench.device, repeats=3)
    bench.record(f"ranking of {queries:,} queries", 1000 * seconds, "ms")


def _sides(one: Ranks, other: Ranks) -> list[tuple[Tensor, Tensor]]:
    return [
        (one.image_to_text, other.image_to_text),
        (one.text_to_image, other.text_to_image),
    ]


def _embeddings(images: int, dim: int = 512) -> tuple[Tensor, Tensor, Tensor]:
    """Return images (images, dim), their captions (5 × images, dim), and the relevant pairs.

    A tenth of the images come twice, so that there are ties.
    """
    generator = torch.Generator().manual_seed(0)
    v = torch.randn(images, dim, generator=generator)
    v[: images // 10] = v[-(images // 10) :]
    own = torch.arange(images).repeat_interleave(CAPTIONS)
    t = v[own] + 4 * torch.randn(len(own), dim, generator=generator)
    pairs = torch.stack([own, torch.arange(len(own))], dim=1)
    return F.normalize(v, dim=1), F.normalize(t, dim=1), pairs


def _metrics(run: Path, to: Path, device: str) -> dict[str, float]:
    variables = ON_CPU if device == "on_cpu" else {}
    command("launch/evaluate.py", run, "--output", to, variables=variables)
    found: dict[str, float] = json.loads((to / "results.json").read_text())
    del found["measured"]
    return found
