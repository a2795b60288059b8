"""DeepSpeed's accelerator of the pretended device: streams, waits for which are counted.

What is launched on streams besides the default one, or on the default one, is computed as late as
may be: once the host or another stream waits for it. Until then its results are NaN, so that
whoever reads them unordered is found.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator
from deepspeed.accelerator.real_accelerator import set_accelerator

from tests.pretended_device import NAME, PretendedDevice, Work


class CountedStream:
    """A stream, and an event at the end of what is on it so far."""

    def __init__(self, waits: list[str], work: Work) -> None:
        self.waits, self.work = waits, work

    def synchronize(self) -> None:
        self.waits.append("stream")
        self.work.finish()

    def wait_stream(self, other: "CountedStream") -> None:
        """Have work that follows wait, not the host."""
        other.work.finish()

    wait_event = wait_stream


class CountedEvent:
    """An event on the stream that is the current one when it is recorded."""

    def __init__(self, accelerator: "PretendedAccelerator") -> None:
        self.accelerator = accelerator
        self.work = accelerator.current_stream().work

    def record(self, *_: object) -> None:
        self.work = self.accelerator.current_stream().work

    def query(self) -> bool:
        return False

    def synchronize(self) -> None:
        self.accelerator.waits.append("event")
        self.work.finish()

    def wait(self, *_: object) -> None:
        self.work.finish()


class PretendedAccelerator(CPU_Accelerator):
    """The host, under the name of the device."""

    def __init__(self, device: PretendedDevice) -> None:
        super().__init__()
        self.waits, self.launched = device.waits, device
        self.streams: list[CountedStream] = []

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
        for work in (self.launched.default, *(one.work for one in self.streams)):
            work.finish()

    @contextmanager
    def stream(self, stream: CountedStream) -> Iterator[None]:
        before, self.launched.work = self.launched.work, stream.work
        try:
            yield
        finally:
            self.launched.work = before

    def Stream(self, **_: Any) -> CountedStream:  # noqa: N802
        is_late = not self.launched.default.is_late
        self.streams.append(CountedStream(self.waits, Work(is_late=is_late)))
        return self.streams[-1]

    def Event(self, **_: Any) -> CountedEvent:  # noqa: N802
        return CountedEvent(self)

    def current_stream(self, *_: Any) -> CountedStream:
        return CountedStream(self.waits, self.launched.work)

    def default_stream(self, *_: Any) -> CountedStream:
        return CountedStream(self.waits, self.launched.default)


def accelerate(device: PretendedDevice) -> None:
    """Have DeepSpeed compute on the device, in this process."""
    set_accelerator(PretendedAccelerator(device))
