"""One measurement of one objective, forward and backward: prints a line of JSON.

    python -m benchmarks.measure OBJECTIVE SIDE BATCH [--dim 512] [--threads 1]

SIDE is `ours` (xmodal's), `peer` (open_clip's, in its own environment) or `naive` (the formula by
the full matrix). With RANK and WORLD_SIZE set, as a launcher sets them, BATCH is divided among
ranks. Memory is how far the peak rises above what was held before: on a CPU of the process, on a
GPU of PyTorch's allocator.
"""

import argparse
import functools
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.full_matrix import (
    EIGHTHS,
    EPSILON,
    MARGIN,
    TEMPERATURE,
    naive_affinity,
    naive_dv,
    naive_hardest_triplet,
    naive_info_nce,
    naive_jsd,
    naive_late_interaction,
    naive_local_jsd,
    naive_matryoshka,
    naive_multi_similarity,
    naive_norm_softmax,
    naive_sigmoid,
    naive_smooth_ap,
    of_teacher,
)

Loss = Callable[[Tensor, Tensor], Tensor]
CLASSES = 100_000  # of which the losses of proxies have one each
POSITIONS = 49  # of a feature map of 7 × 7
WORDS = 32  # of a text
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("objective", choices=OBJECTIVES)
    parser.add_argument("side", choices=["ours", "peer", "naive"])
    parser.add_argument("batch", type=int)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if ranks > 1:
        dist.init_process_group("nccl" if DEVICE == "cuda" else "gloo")
    loss = OBJECTIVES[args.objective][args.side](rank, ranks)
    inputs = inputs_of(args.objective)
    loss(*inputs(64 * ranks, args.dim, rank, ranks)).backward()  # what is done once is done
    x, y = inputs(args.batch, args.dim, rank, ranks)
    found = measure(lambda: both_ways(loss, x, y))
    if rank == 0:
        print(json.dumps(found | {"product": product_speed(), "hardware": hardware()}))


def inputs_of(objective: str) -> Callable[[int, int, int, int], tuple[Tensor, Tensor]]:
    """Return a function that makes an objective's inputs, given batch, width, rank and ranks."""
    if objective == "late_interaction":
        return token_sets
    return maps if objective.startswith("local_") else pairs


def token_sets(batch: int, dim: int, rank: int, ranks: int) -> tuple[Tensor, Tensor]:
    """Return this rank's maps (batch, positions, dim), and words (batch, words, dim) near them."""
    x, y = maps(batch, dim, rank, ranks)
    noise = torch.randn(len(y), WORDS, dim, generator=torch.Generator().manual_seed(-1 - rank))
    words = F.normalize(y.detach()[:, None] * dim**0.5 + noise.to(DEVICE), dim=2)
    return x, words.requires_grad_()


def pairs(batch: int, dim: int, rank: int, ranks: int) -> tuple[Tensor, Tensor]:
    """Return this rank's pairs of embeddings of length 1, each text near its image."""
    x, y = maps(batch, dim, rank, ranks, positions=1)
    return x.detach()[:, 0].requires_grad_(), y


def maps(
    batch: int, dim: int, rank: int, ranks: int, positions: int = POSITIONS
) -> tuple[Tensor, Tensor]:
    """Return this rank's feature maps (batch, positions, dim), and vectors near their positions."""
    generator = torch.Generator().manual_seed(rank)
    y = torch.randn(batch // ranks, dim, generator=generator)
    x = y[:, None] + torch.randn(len(y), positions, dim, generator=generator)
    x, y = F.normalize(x.to(DEVICE), dim=2), F.normalize(y.to(DEVICE), dim=1)
    return x.requires_grad_(), y.requires_grad_()


def both_ways(loss: Loss, x: Tensor, y: Tensor) -> Tensor:
    """Return the value, the gradients computed as well."""
    value = loss(x, y)
    value.backward()
    return value


def measure(work: Callable[[], Tensor]) -> dict[str, float]:
    """Return seconds of processor and of the clock, MiB, and the value, of some work."""
    before = reset_peak()
    synchronise()
    clock, processor = time.perf_counter(), time.process_time()
    value = work()
    synchronise()
    seconds = {"cpu": time.process_time() - processor, "wall": time.perf_counter() - clock}
    return seconds | {"memory": (peak() - before) / 2**20, "value": float(value.detach())}


def synchronise() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def reset_peak() -> int:
    """Forget the peak of memory, and return the bytes in use now."""
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak() -> int:
    """Return the greatest number of bytes in use since."""
    return torch.cuda.max_memory_allocated() if DEVICE == "cuda" else _status("VmHWM")


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s*(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def product_speed() -> float:
    """Return FLOP/s of a plain matrix product: the speed that no objective exceeds."""
    a, b = torch.randn(2, 4096, 512, device=DEVICE)
    best = float("inf")
    for _ in range(3):
        synchronise()
        start = time.perf_counter()
        a @ b.T
        synchronise()
        best = min(best, time.perf_counter() - start)
    return 2 * 4096 * 4096 * 512 / best


def hardware() -> str:
    if DEVICE == "cuda":
        return torch.cuda.get_device_name()
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return f"{found[1] if found else 'CPU'}, {torch.get_num_threads()} threads"


def ours(kind: str, **given: Any) -> Callable[[int, int], Loss]:
    """Return xmodal's objective of a kind."""

    def build(rank: int, _: int) -> Loss:
        from pydantic import TypeAdapter

        from xmodal.objectives.config import ObjectiveConfig

        config: Any = TypeAdapter(ObjectiveConfig).validate_python({"kind": kind} | given)
        objective = config.build().to(DEVICE)

        def loss(x: Tensor, y: Tensor) -> Tensor:
            ids = torch.arange(len(x), device=x.device) + rank * len(x)
            # As images' ids are: in no order.
            return objective(x, y, ids * 0x9E3779B97F4A7C15 % 2**61)

        return loss

    return build


def matryoshka(rank: int, ranks: int) -> Loss:
    """Return xmodal's InfoNCE at several widths of whatever embeddings it is given."""

    def loss(x: Tensor, y: Tensor) -> Tensor:
        widths = [x.shape[1] * part // 8 for part in EIGHTHS]
        return ours("matryoshka", widths=widths)(rank, ranks)(x, y)

    return loss


def late_interaction(rank: int, _: int) -> Loss:
    """Return xmodal's objective of sets of vectors."""
    from xmodal.objectives import LateInteraction

    objective = LateInteraction().to(DEVICE)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        ids = torch.arange(len(x), device=x.device) + rank * len(x)
        share: Tensor = objective(x, y, ids)
        return share

    return loss


def affinity(*_: int) -> Loss:
    """Return xmodal's distillation of scores."""
    from xmodal.objectives import Affinity

    objective = Affinity().to(DEVICE)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        share: Tensor = objective(x, y, *of_teacher(x, y))
        return share

    return loss


def open_clip(name: str) -> Callable[[int, int], Loss]:
    """Return open_clip's loss, which on several ranks scores its own rows with all others'."""

    def build(rank: int, ranks: int) -> Loss:
        from open_clip.loss import ClipLoss, SigLipLoss

        if name == "ClipLoss":
            clip = ClipLoss(local_loss=True, gather_with_grad=True, rank=rank, world_size=ranks)
            scale = torch.tensor(1 / 0.07, device=DEVICE, requires_grad=True)
            return lambda x, y: clip(x, y, scale)
        siglip = SigLipLoss(rank=rank, world_size=ranks)
        scale, bias = torch.tensor([10.0, -10.0], device=DEVICE, requires_grad=True)
        return lambda x, y: siglip(x, y, scale, bias)

    return build


def of_proxies(objective: Callable[[nn.Module, Tensor, Tensor], Tensor]) -> Callable[..., Loss]:
    """Return a loss of the items of both sides among proxies, which are there before."""

    def build(rank: int, _: int) -> Loss:
        from xmodal.objectives import NormSoftmax

        @functools.cache
        def module(width: int) -> nn.Module:
            torch.manual_seed(0)
            return NormSoftmax(CLASSES, width, temperature=TEMPERATURE).to(DEVICE)

        def loss(x: Tensor, y: Tensor) -> Tensor:
            labels = (torch.arange(len(x), device=x.device) + rank * len(x)) * 7919 % CLASSES
            return objective(module(x.shape[1]), torch.cat([x, y]), labels.repeat(2))

        return loss

    return build


def full_matrix(loss: Loss) -> Callable[[int, int], Loss]:
    return lambda *_: loss


Sides = dict[str, Callable[[int, int], Loss]]
OBJECTIVES: dict[str, Sides] = {
    "infonce": {
        "ours": ours("info_nce"),
        "peer": open_clip("ClipLoss"),
        "naive": full_matrix(naive_info_nce),
    },
    "infonce_bf16": {
        "ours": ours("info_nce", matmul_dtype="bfloat16"),
        "peer": open_clip("ClipLoss"),
    },
    "sigmoid": {
        "ours": ours("sigmoid"),
        "peer": open_clip("SigLipLoss"),
        "naive": full_matrix(naive_sigmoid),
    },
    "hardest_triplet": {
        "ours": ours("triplet", negatives="hardest", margin=MARGIN, warmup=0),
        "naive": full_matrix(naive_hardest_triplet),
    },
    "jsd": {
        "ours": ours("mutual_information", estimator="jsd"),
        "naive": full_matrix(naive_jsd),
    },
    "local_jsd": {
        "ours": ours("mutual_information", estimator="jsd"),
        "naive": full_matrix(naive_local_jsd),
    },
    "dv": {
        "ours": ours("mutual_information", estimator="dv"),
        "naive": full_matrix(naive_dv),
    },
    "matryoshka": {"ours": matryoshka, "naive": full_matrix(naive_matryoshka)},
    "affinity": {
        "ours": affinity,
        "naive": full_matrix(naive_affinity),
    },
    "late_interaction": {
        "ours": late_interaction,
        "naive": full_matrix(naive_late_interaction),
    },
    "norm_softmax": {
        "ours": of_proxies(lambda module, x, labels: module(x, labels)),
        "naive": of_proxies(naive_norm_softmax),
    },
    "multi_similarity": {
        "ours": ours("multi_similarity", epsilon=EPSILON),
        "naive": full_matrix(naive_multi_similarity),
    },
    "smooth_ap": {
        "ours": ours("smooth_ap", temperature=TEMPERATURE),
        "naive": full_matrix(naive_smooth_ap),
    },
}

if __name__ == "__main__":
    main()
