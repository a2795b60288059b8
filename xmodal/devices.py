"""Copies between the host and a device that neither waits for."""

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


def is_on_host(tensor: Tensor) -> bool:
    """Return whether a tensor's values can be looked at without waiting for a device.

    Where they can, work that they make superfluous is skipped; a device does it always. Tensors of
    a planned run have no values.
    """
    return tensor.device.type == "cpu" and not isinstance(tensor, FakeTensor)


def copy_to(device: torch.device, values: Tensor) -> Tensor:
    """Return values of the host on a device, where later work finds them."""
    if device.type == "cuda":
        values = values.pin_memory()  # from other memory the copy would wait
    return values.to(device, non_blocking=True)
