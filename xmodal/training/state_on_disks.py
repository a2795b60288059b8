"""State on local disks: how much it is, folders for it, and options for DeepSpeed."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from xmodal.runs.local_folder import LocalFolder
from xmodal.training.config import TrainingConfig

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
    training: TrainingConfig, method: nn.Module, optimizer: Optimizer, ranks: int
) -> dict[str, LocalFolder]:
    """Return new folders on the disks that options of ZeRO name, by option.

    The optimiser has not stepped yet. Raises `UserError` where the node's ranks would fill a disk.
    """
    disks = {option: Path(disk) for option, disk in training.zero.disks.items()}
    of_node = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    sizes = {
        option: _size_of_state(optimizer)
        if option == "offload_optimizer"
        else _size_of_weights(method, training)
        for option in disks
    }
    devices = {option: disk.stat().st_dev for option, disk in disks.items()}
    return {
        # Options may name folders of one disk, which has neither of them yet.
        option: LocalFolder(
            disk,
            sum(sizes[one] * of_node // ranks for one in disks if devices[one] == devices[option]),
            KEY.format(option),
        )
        for option, disk in disks.items()
    }


def _size_of_weights(method: nn.Module, training: TrainingConfig) -> int:
    """Return the bytes of all ranks' shares together."""
    each = 2 if training.precision == "bf16_weights" else 4
    return each * sum(one.numel() for one in method.parameters())


def _size_of_state(optimizer: Optimizer) -> int:
    """Return the bytes of all ranks' shares of the state and of the fp32 weights together."""
    numbers = sum(one.numel() for group in optimizer.param_groups for one in group["params"])
    return 4 * numbers * (1 + state_tensors(optimizer))


def disk_options(folder: LocalFolder, optimizer: Optimizer) -> dict[str, Any]:
    """Return DeepSpeed's options: where, and memory for one group's weights, gradient and state."""
    return {"nvme_path": str(folder.path), "buffer_count": 2 + state_tensors(optimizer)}
