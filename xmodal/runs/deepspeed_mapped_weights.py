"""Weights of ZeRO 3 in files of a local disk, mapped into memory.

For DeepSpeed they are in the host's memory. The operating system reads what is gathered, writes
what was stepped, and keeps as much in memory as there is room for.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partialmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xmodal.errors import UserError

# By this, DeepSpeed makes the memory of the weights that are trained, a tensor a parameter group.
MAKES_MEMORY = "_create_param_groups_fp16_flat_cpu_memory"


@contextmanager
def weights_in_files(zero_3: Any, folder: Path) -> Iterator[None]:
    """Have optimisers of ZeRO 3 that are made within the block keep this rank's shares of weights
    in files of a folder.

    DeepSpeed's own way to a disk needs a buffer of the largest weight's size for each weight that
    is gathered, fails where these are too few, keeps all numbers of a group in memory besides, and
    rounds float32 to bf16 where the device has no fp16.
    """
    given = getattr(zero_3, MAKES_MEMORY)
    setattr(zero_3, MAKES_MEMORY, partialmethod(_map_weights, folder))
    try:
        yield
    finally:
        setattr(zero_3, MAKES_MEMORY, given)


def _map_weights(zero: Any, folder: Path) -> None:
    """Map a file for each parameter group, and one for each large weight that is locked."""
    trained = set()
    for number, group in enumerate(zero.trainable_param_groups):
        size = sum(one.partition_numel() for one in group["params"])
        flat = _mapped(folder / f"group-{number}", size, zero.dtype)
        zero.param_groups_fp16_flat_cpu_memory.append(flat)
        trained |= {one.ds_id for one in group["params"]}
    for one in zero.module.parameters():
        if one.ds_id not in trained and not one.ds_persist:
            share = one.ds_tensor
            flat = _mapped(folder / f"weight-{one.ds_id}", share.ds_numel, share.dtype)
            share.data = flat.copy_(share)


def _mapped(path: Path, size: int, dtype: torch.dtype) -> Tensor:
    """Return a flat tensor of zeros whose values are those of a new file."""
    try:
        with path.open("xb") as file:
            # Now, for a process that writes to a mapped file on a full disk is killed.
            os.posix_fallocate(file.fileno(), 0, max(1, size * dtype.itemsize))
    except OSError as error:
        raise UserError(
            f"training.zero.offload_parameters.path={path.parent.parent} cannot be written: "
            f"{error.strerror}; free space, or name a folder on another disk of each node"
        ) from None
    return torch.from_file(str(path), shared=True, size=size, dtype=dtype)
