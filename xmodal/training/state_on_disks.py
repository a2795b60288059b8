"""State on local disks: how much it is, folders for it, and options for DeepSpeed."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from xmodal.runs.local_folder import LocalFolder
from xmodal.training.zero import ZeroConfig

KEY = "training.zero.{}.path"  # by option


def state_tensors(optimizer: Optimizer) -> int:
    """Return the number of tensors that an optimiser keeps of each weight, averages too."""
    probe = nn.Parameter(torch.ones(2))
    probe.grad = torch.ones(2)
    own = optimizer.param_groups
    optimizer.param_groups = [{**own[0], "params": [probe], "names": ["probe"]}]
    try:
        optimizer.step()
        state = optimizer.state.pop(probe, {})
    finally:
        optimizer.param_groups = own
    return sum(isinstance(one, torch.Tensor) and one.numel() == 2 for one in state.values())


def disk_folders(
    zero: ZeroConfig, method: nn.Module, optimizer: Optimizer, ranks: int
) -> dict[str, LocalFolder]:
    """Return new folders on the disks that options of ZeRO name, by option.

    The optimiser has not stepped yet. Raises `UserError` where the node's ranks would fill a disk.
    """
    disks, of_node = zero.disks, int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    sizes = {option: _size(option, method, optimizer) * of_node // ranks for option in disks}
    return {
        # Options may name the same disk, which has neither of them yet.
        option: LocalFolder(
            Path(disk),
            sum(size for other, size in sizes.items() if disks[other] == disk),
            KEY.format(option),
        )
        for option, disk in disks.items()
    }


def _size(option: str, method: nn.Module, optimizer: Optimizer) -> int:
    """Return the bytes of what an option offloads, of all ranks together."""
    if option == "offload_parameters":
        return sum(one.numel() * one.element_size() for one in method.parameters())
    numbers = sum(one.numel() for group in optimizer.param_groups for one in group["params"])
    return 4 * numbers * (1 + state_tensors(optimizer))


def disk_options(folder: LocalFolder, optimizer: Optimizer) -> dict[str, Any]:
    """Return DeepSpeed's options: where, and memory for one group's weights, gradient and state."""
    return {"nvme_path": str(folder.path), "buffer_count": 2 + state_tensors(optimizer)}
