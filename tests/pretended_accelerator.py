"""DeepSpeed's accelerator of the pretended device: streams that compute at once, waits counted."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator
from deepspeed.accelerator.real_accelerator import set_accelerator

from tests.pretended_device import NAME, PretendedDevice


class CountedStream:
    """A stream, and an event on it."""

    def __init__(self, waits: list[str]) -> None:
        self.waits = waits

    def synchronize(self) -> None:
        self.waits.append("stream")

    def query(self) -> bool:
        return False

    def wait(self, *_: object) -> None:
        """Have work that follows wait, not the host."""

    wait_stream = wait_event = record = wait


class PretendedAccelerator(CPU_Accelerator):
    """The host, under the name of the device."""

    def __init__(self, device: PretendedDevice) -> None:
        super().__init__()
        self.waits = device.waits

    def device_name(self, device_index: int | None = None) -> str:
        return NAME if device_index is None else f"{NAME}:{device_index}"

    def current_device_name(self) -> str:
        return f"{NAME}:0"

    def current_device(self) -> int:
        return 0

    def device(self, device_index: int | None = None) -> torch.device:
        return torch.device(NAME, device_index or 0)

    def on_accelerator(self, tensor: torch.Tensor) -> bool:
        return tensor.device.type == NAME

    def is_synchronized_device(self) -> bool:
        return False

    def synchronize(self, *_: Any) -> None:
        self.waits.append("device")

    def stream(self, *_: Any) -> AbstractContextManager[None]:
        return nullcontext()

    def Stream(self, **_: Any) -> CountedStream:  # noqa: N802
        return CountedStream(self.waits)

    def Event(self, **_: Any) -> CountedStream:  # noqa: N802
        return CountedStream(self.waits)

    def current_stream(self, *_: Any) -> CountedStream:
        return CountedStream(self.waits)

    def default_stream(self, *_: Any) -> CountedStream:
        return CountedStream(self.waits)


def accelerate(device: PretendedDevice) -> None:
    """Have DeepSpeed compute on the device, in this process."""
    set_accelerator(PretendedAccelerator(device))
