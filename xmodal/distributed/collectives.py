"""Collectives that gradients pass through.

One convention holds for every objective. The objective's value is a mean over the global batch.
Each rank returns its *share*, scaled so that the mean of the shares over the ranks is that value.
Backward, `gather` adds up what every rank's share asks of an embedding. DeepSpeed then takes the
mean of the parameters' gradients over the ranks, which is exactly the gradient of the global value,
whatever the number of ranks.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

T = TypeVar("T")


def world_size() -> int:
    """Number of ranks; 1 where no process group is."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's place among the ranks; 0 where no process group is."""
    return dist.get_rank() if dist.is_initialized() else 0


def gather(local: Tensor) -> Tensor:
    """Return the rows of all ranks, (ranks × rows, …), in the order of ranks, with gradients.

    Every rank gives equally many rows.
    """
    if world_size() == 1:
        return local
    gathered: Tensor = _Gather.apply(local)
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, local: Tensor) -> Tensor:
        gathered = local.new_empty(world_size() * local.shape[0], *local.shape[1:])
        dist.all_gather_into_tensor(gathered, local.contiguous())
        return gathered

    @staticmethod
    @once_differentiable
    def backward(_: Any, gradient: Tensor) -> Tensor:
        local = gradient.new_empty(gradient.shape[0] // world_size(), *gradient.shape[1:])
        dist.reduce_scatter_tensor(local, gradient.contiguous())
        return local


def all_reduce(values: Tensor) -> Tensor:
    """Return the elementwise sum over all ranks, with gradients."""
    if world_size() == 1:
        return values
    total: Tensor = _AllReduce.apply(values)
    return total


class _AllReduce(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, values: Tensor) -> Tensor:
        return sum_over_ranks(values)

    @staticmethod
    @once_differentiable
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return sum_over_ranks(gradient.contiguous())


def gather_ragged(local: Tensor) -> Tensor:
    """Return the rows of all ranks, of which each may have another number; without gradients."""
    if world_size() == 1:
        return local
    counts = local.new_zeros(world_size(), dtype=torch.int64)
    counts[rank()] = local.shape[0]
    dist.all_reduce(counts)
    padded = local.new_zeros(int(counts.max()), *local.shape[1:])
    padded[: local.shape[0]] = local
    parts = gather(padded).view(world_size(), *padded.shape)
    return torch.cat([part[:count] for part, count in zip(parts, counts.tolist(), strict=True)])


def gather_objects(local: Sequence[T]) -> list[T]:
    """Return the objects of all ranks, in the order of ranks; each may have another number."""
    if world_size() == 1:
        return list(local)
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, list(local))
    return [one for part in parts for one in part]


def sum_over_ranks(values: Tensor) -> Tensor:
    """Return the elementwise sum over all ranks, without gradients."""
    total = values.detach().clone()
    if world_size() > 1:
        dist.all_reduce(total)
    return total


def barrier() -> None:
    """Wait for all ranks."""
    if world_size() > 1:
        dist.barrier()
