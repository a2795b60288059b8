"""Copies between the host and a device that neither waits for."""

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


def has_values(tensor: Tensor) -> bool:
    """Return False for a tensor that has a shape alone, of a run that is planned or counted."""
    return not (tensor.is_meta or isinstance(tensor, FakeTensor))


def is_on_host(tensor: Tensor) -> bool:
    """Return whether a tensor's values can be looked at without waiting for a device.

    Where they can, work that they make superfluous is skipped; a device does it always.
    """
    return tensor.device.type == "cpu" and has_values(tensor)


def copy_to(device: torch.device, values: Tensor) -> Tensor:
    """Return values on a device, where later work finds them; those of the host are copied."""
    if device.type == "cuda" and is_on_host(values) and not values.is_pinned():
        values = values.pin_memory()  # from other memory the copy would wait
    return values.to(device, non_blocking=True)


class Reading:
    """Numbers of a device, (count,), copied to the host while both continue."""

    def __init__(self, numbers: Tensor) -> None:
        self._copy = numbers.to("cpu", non_blocking=True)
        self._copied = torch.cuda.Event() if numbers.is_cuda else None
        if self._copied:
            self._copied.record()

    def numbers(self) -> list[float]:
        """Return the numbers, once the device has computed them."""
        if self._copied:
            self._copied.synchronize()
        numbers: list[float] = self._copy.tolist()
        return numbers
