"""Collectives that gradients pass through.

One convention holds for every objective. The objective's value is a mean over the global batch.
Each rank returns its *share*, scaled so that the mean of the shares over the ranks is that value.
Backward, `gather` sums an embedding's gradients by the shares of all ranks. DeepSpeed, or PyTorch's
`DistributedDataParallel`, then takes the mean of the parameters' gradients over the ranks, which is
exactly the gradient of the global value, whatever the number of ranks.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from xmodal.phases import phase

T = TypeVar("T")
_EQUAL_ROWS = ContextVar("equal rows", default=False)


_ALONE: ContextVar[bool] = ContextVar("alone", default=False)  # within `as_single_rank`


def world_size() -> int:
    """Return the number of ranks; 1 without a process group."""
    return dist.get_world_size() if _has_others() else 1


def rank() -> int:
    """Return the rank of this process; 0 without a process group."""
    return dist.get_rank() if _has_others() else 0


def _has_others() -> bool:
    return dist.is_initialized() and not _ALONE.get()


@contextmanager
def as_single_rank() -> Iterator[None]:
    """Compute the block as the only rank would, without exchanging anything with the others."""
    before = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(before)


@contextmanager
def equal_rows() -> Iterator[None]:
    """State that within the context all ranks have equally many rows of whatever is gathered.

    Else they have to exchange how many, and wait for the answer.
    """
    token = _EQUAL_ROWS.set(True)
    try:
        yield
    finally:
        _EQUAL_ROWS.reset(token)


def row_counts(local: Tensor) -> list[int]:
    """Return how many rows each rank has."""
    if world_size() == 1 or _EQUAL_ROWS.get():
        return [local.shape[0]] * world_size()
    counts = torch.zeros(world_size(), dtype=torch.int64, device=local.device)
    counts[rank()] = local.shape[0]
    with phase("communication"):
        dist.all_reduce(counts)
    return counts.tolist()


def gather(local: Tensor, counts: list[int] | None = None) -> Tensor:
    """Return the rows of all ranks, (all rows, …), in the order of ranks, with gradients.

    Ranks may have different numbers of rows: `counts`, which is asked for unless given.
    """
    if world_size() == 1:
        return local
    gathered: Tensor = _Gather.apply(local, counts or row_counts(local))
    return gathered


def plan_order(counts: list[int], device: torch.device) -> Tensor:
    """Return the places, (all rows,) int64, of gathered rows in the order of the plan.

    Ranks are dealt samples in turn: by turns they are in that order again.
    """
    turns = torch.cat([torch.arange(count, device=device) for count in counts])
    return turns.argsort(stable=True)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, local: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        most = max(counts)
        gathered = local.new_empty(len(counts) * most, *local.shape[1:])
        with phase("communication"):
            dist.all_gather_into_tensor(gathered, _padded(local, most))
        if min(counts) == most:
            return gathered
        parts = gathered.split(most)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        counts, most = ctx.counts, max(ctx.counts)
        if min(counts) < most:
            gradient = torch.cat([_padded(part, most) for part in gradient.split(counts)])
        local = gradient.new_empty(most, *gradient.shape[1:])
        with phase("communication"):
            dist.reduce_scatter_tensor(local, gradient.contiguous())
        return local[: counts[rank()]], None


def _padded(rows: Tensor, length: int) -> Tensor:
    if len(rows) == length:
        return rows.contiguous()
    return torch.cat([rows, rows.new_zeros(length - len(rows), *rows.shape[1:])])


def gather_objects(local: Sequence[T], kind: Callable[..., T] | None = None) -> list[T]:
    """Return the objects of all ranks, in the order of ranks; each may have another number.

    They are exchanged as JSON, so that no code is executed: tuples arrive as lists, and dataclasses
    need their `kind`.
    """
    if world_size() == 1:
        return list(local)
    device = "cuda" if "nccl" in dist.get_backend() else "cpu"
    written = json.dumps(list(local), default=asdict).encode()
    mine = torch.frombuffer(bytearray(written), dtype=torch.uint8).to(device)
    counts = row_counts(mine)
    parts = gather(mine, counts).cpu().split(counts)
    objects = [one for part in parts for one in json.loads(part.numpy().tobytes())]
    return [kind(**one) for one in objects] if kind else objects


def sum_over_ranks(values: Tensor) -> Tensor:
    """Return the elementwise sum over all ranks, without gradients."""
    total = values.detach().clone()
    if world_size() > 1:
        with phase("communication"):
            dist.all_reduce(total)
    return total


def share_of_mean(values: Tensor, counts: list[int]) -> Tensor:
    """Return this rank's share of the mean over all ranks' values; `counts` is their number."""
    return values.sum() * (world_size() / sum(counts))


def mean_of_shares(share: Tensor) -> Tensor:
    """Return the value that the ranks' shares stand for, without gradients."""
    return sum_over_ranks(share) / world_size()


def barrier() -> None:
    """Wait for all ranks."""
    if world_size() > 1:
        dist.barrier()
