"""The optimiser's state on a local disk: how much it is, and options for DeepSpeed."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from xmodal.runs.local_folder import LocalFolder

KEY = "training.zero.offload_optimizer.path"


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


def state_folder(disk: str, optimizer: Optimizer, ranks: int) -> LocalFolder:
    """Return a new folder on a disk for the state of an optimiser, which has not stepped yet.

    Raises `UserError` where the node's ranks would fill the disk.
    """
    numbers = sum(one.numel() for group in optimizer.param_groups for one in group["params"])
    of_node = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    size = 4 * numbers * (1 + state_tensors(optimizer)) * of_node // ranks
    return LocalFolder(Path(disk), size, KEY)


def disk_options(folder: LocalFolder, optimizer: Optimizer) -> dict[str, Any]:
    """Return DeepSpeed's options: where, and memory for one group's weights, gradient and state."""
    return {"nvme_path": str(folder.path), "buffer_count": 2 + state_tensors(optimizer)}
