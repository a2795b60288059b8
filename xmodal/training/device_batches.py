"""Batches on the device, each copied there while it computes the step before."""

from collections.abc import Generator
from contextlib import closing

import torch
from torch import Tensor

from xmodal.data.batch import Batch


def device_batches(batches: Generator[Batch], device: torch.device) -> Generator[Batch]:
    """Yield batches of the host on a device.

    A GPU copies them on a stream of their own, beside what it is given to compute: the host is a
    step ahead of it, and so are its batches.
    """
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    with closing(batches):
        while True:
            with torch.cuda.stream(stream):
                batch = next(batches, None)
                if batch is None:
                    return
                batch = batch.to(device)
            if stream:
                _hand_over(batch, stream)
            yield batch


def _hand_over(batch: Batch, stream: torch.cuda.Stream) -> None:
    """Have what is computed next wait for a batch's copies, and its memory last as long as that."""
    computing = torch.cuda.current_stream()
    computing.wait_stream(stream)
    for tensor in vars(batch).values():
        if isinstance(tensor, Tensor):
            tensor.record_stream(computing)
