"""DeepSpeed's optimiser whose state lies on a local disk: stepped, read, changed and saved.

DeepSpeed's ZeRO-Infinity (Rajbhandari et al. 2021, arXiv 2104.07857) moves the fp32 weights and the
state of one group of ZeRO 3 at a time to memory and back; groups under a megabyte stay in memory.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

OF_DISKS = (
    "zero_nvme_offload_optimizer",
    "optimizer.swap_optimizer",
    "optimizer.state_dict",
    "optimizer._swappable_optimizer_subgroup",
    "optimizer._optimizer_states_and_gradient_swap_in",
    "optimizer._optimizer_states_and_gradient_swap_out",
    "optimizer._release_swap_buffers",
    "optimizer.optimizer_swapper.swap_params_info",
    "optimizer.optimizer_swapper.swap_out_gradients",
    "optimizer.optimizer_swapper._swap_in_gradients",
)


def step_from_disks(engine: Any) -> None:
    """Have an engine step by gradients that stay in memory, and save its state as any other does.

    DeepSpeed would move gradients to the disk too. Where their numbers do not begin at a multiple
    of 256 in the group, it reads others back, and says nothing. Its checkpoints would be copies of
    its files, which fit no other ranks.
    """
    zero = engine.optimizer
    swapper = zero.optimizer_swapper
    swapper.swap_out_gradients = partial(_keep_gradients, swapper)
    swapper._swap_in_gradients = partial(_lay_gradient, swapper)
    for info in swapper.swap_params_info.values():
        info.has_gradients = lambda: True
    zero.state_dict = partial(_saved, zero, zero.state_dict)
    engine.zero_nvme_offload_optimizer = lambda: False


def _keep_gradients(
    swapper: Any, parameter: Tensor, gradient_offsets: Sequence[int], gradient_tensors: Any
) -> None:
    if info := swapper.swap_params_info.get(parameter.ds_id):  # type: ignore[attr-defined]
        host = [one.cpu() for one in gradient_tensors]
        info.unswapped_gradients.update(zip(gradient_offsets, host, strict=True))


def _lay_gradient(swapper: Any, aio_handle: Any, parameter: Tensor, dest_buffer: Tensor) -> None:  # noqa: ARG001
    """Lay a group's gradients into a buffer; those of weights that none reached are 0."""
    parameter.grad = dest_buffer[: parameter.numel()].zero_()
    swapper.swap_params_info[parameter.ds_id].read_unswapped_gradients(parameter.grad)  # type: ignore[attr-defined]


@contextmanager
def in_memory(zero: Any, group: int, *, writes: bool) -> Iterator[None]:
    """Have the weights and the state of a group of ZeRO 3 in memory, as long as the block lasts.

    If it `writes`, they are written afterwards; gradients that wait for the step stay.
    """
    if not getattr(zero, "swap_optimizer", False) or not zero._swappable_optimizer_subgroup(group):
        yield
        return
    flat = zero.fp32_partitioned_groups_flat[group]
    info = zero.optimizer_swapper.swap_params_info[flat.ds_id]
    gradients = info.unswapped_gradients
    zero._optimizer_states_and_gradient_swap_in(group)
    try:
        yield
    finally:
        if writes:
            zero._optimizer_states_and_gradient_swap_out(group)
            info.unswapped_gradients = gradients
        else:
            zero._release_swap_buffers(group)


def _saved(zero: Any, given: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the optimiser's part of a checkpoint, memory-mapped where it lies on the disk."""
    on_disk = {
        id(one.compute_tensor): (one.swap_path, info)
        for info in zero.optimizer_swapper.swap_params_info.values()
        for one in info.tensors
    }

    def mapped(value: Any) -> Any:
        if id(value) not in on_disk:
            return value
        path, info = on_disk[id(value)]
        return torch.from_file(path, size=info.numel(), dtype=info.dtype())

    saved = given()
    optimizer = saved["optimizer_state_dict"]
    states = {
        number: {key: mapped(value) for key, value in state.items()}
        for number, state in optimizer["state"].items()
    }
    flats = [mapped(flat) for flat in saved["fp32_flat_groups"]]
    return saved | {
        "optimizer_state_dict": optimizer | {"state": states},
        "fp32_flat_groups": flats,
    }
