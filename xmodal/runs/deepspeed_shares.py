"""Shares of the weights and the state that a rank's optimiser has under DeepSpeed's ZeRO."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from xmodal.runs.checkpoints.state_files import Part, equal_parts
from xmodal.runs.deepspeed_disks import in_memory

# New values of what an optimiser steps, by that and its state.
Read = Callable[[Tensor, dict[str, Any]], Tensor]
OF_ZERO_1_AND_2 = (
    "optimizer.reduce_gradients",
    "optimizer.overlapping_partition_gradients_reduce_epilogue",
    "optimizer.optimizer.state",
    "optimizer.param_names",
    "optimizer.single_partition_of_fp32_groups",
    "optimizer.bit16_groups",
    "optimizer.update_lp_params",
)
OF_ZERO_3 = (
    "optimizer.optimizer.state",
    "optimizer.param_names",
    "optimizer.fp32_partitioned_groups_flat",
    "optimizer.fp16_groups",
    "optimizer.persistent_parameters",
    "optimizer.invalidate_secondary_tensor",
)


def optimizer_shares(
    engine: Any, *, writes: bool = False
) -> Iterator[tuple[Tensor, dict[str, Any], list[Part]]]:
    """Yield each tensor that this rank's optimiser steps, with its state, which may be added to,
    and the parts that it is made of: flat shares of a group under ZeRO, else whole parameters.

    What lies on disks is in memory until the next one; it is written again if the caller `writes`.
    """
    optimizer, stage = engine.optimizer, engine.zero_optimization_stage()
    if not stage:
        yield from _parameters(optimizer)
        return
    shares = _shares_of_3 if stage == 3 else _shares_of_1_and_2
    for group, (flat, parts) in enumerate(shares(optimizer)):
        with in_memory(optimizer, group, writes=writes):
            yield flat, optimizer.optimizer.state[flat], parts


def has_state(engine: Any, key: str) -> bool:
    """Return True if this rank's optimiser has something of that name in its state."""
    optimizer = engine.optimizer
    own = optimizer.optimizer if engine.zero_optimization_stage() else optimizer
    return any(key in state for state in own.state.values())


def _parameters(optimizer: Any) -> Iterator[tuple[Tensor, dict[str, Any], list[Part]]]:
    for group in optimizer.param_groups:
        for name, parameter in zip(group["names"], group["params"], strict=True):
            state = optimizer.state.get(parameter, {})
            yield parameter, state, [Part(name, 0, 0, parameter.numel())]


@torch.no_grad()
def fill_weights(engine: Any, read: Read) -> None:
    """Set the trained weights of an engine's module to what `read` returns for each tensor that
    the optimisers of the ranks step, given it and its state. All ranks call this.
    """
    fill = (_fill_own, _fill_of_1_and_2, _fill_of_1_and_2, _fill_of_3)
    fill[engine.zero_optimization_stage()](engine, read)


def _fill_own(engine: Any, read: Read) -> None:
    for weights, state, _ in optimizer_shares(engine):
        weights.copy_(read(weights, state))


def _fill_of_1_and_2(engine: Any, read: Read) -> None:
    """Have DeepSpeed send the values to all ranks, as it sends stepped weights."""
    values = [read(flat, state) for flat, state, _ in optimizer_shares(engine)]
    flats = engine.optimizer.single_partition_of_fp32_groups
    stepped = [flat.data for flat in flats]
    for flat, new in zip(flats, values, strict=True):
        flat.data = new
    engine.optimizer.update_lp_params()
    for flat, own in zip(flats, stepped, strict=True):
        flat.data = own


def _fill_of_3(engine: Any, read: Read) -> None:
    """Write this rank's shares, from which modules gather their weights when they compute."""
    optimizer = engine.optimizer
    shares = zip(optimizer_shares(engine), optimizer.fp16_groups, strict=True)
    for (flat, state, parts), group in shares:
        new = read(flat, state)
        for part, parameter in zip(parts, group, strict=True):
            share = new[part.start : part.start + part.numel]
            parameter.ds_tensor.data[: part.numel].copy_(share)
    optimizer.invalidate_secondary_tensor()
    if small := optimizer.persistent_parameters:  # which every rank keeps whole
        small[0].partition(small)
        small[0].all_gather(small)
    if torch.cuda.is_available():  # a stream that gathers weights does not wait for this one
        torch.cuda.current_stream().synchronize()


def _shares_of_1_and_2(optimizer: Any) -> Iterator[tuple[Tensor, list[Part]]]:
    flats, groups = optimizer.single_partition_of_fp32_groups, optimizer.bit16_groups
    for flat, group in zip(flats, groups, strict=True):
        parts = []
        for parameter in group:
            if (at := parameter._hp_mapping) is not None:
                mine, its = at.hp_fragment_address, at.lp_fragment_address
                name = optimizer.param_names[parameter]
                parts.append(Part(name, mine.start, its.start, its.numel))
        yield flat, parts


def _shares_of_3(optimizer: Any) -> Iterator[tuple[Tensor, list[Part]]]:
    flats, groups = optimizer.fp32_partitioned_groups_flat, optimizer.fp16_groups
    number, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    for flat, group in zip(flats, groups, strict=True):
        sizes = {optimizer.param_names[parameter]: parameter.ds_numel for parameter in group}
        yield flat, list(equal_parts(sizes, number, ranks))
