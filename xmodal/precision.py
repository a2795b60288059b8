"""In which precision float32 is multiplied: the flags of torch, which are set here alone.

Products, convolutions and recurrent networks have a flag each, and torch's defaults round some of
them to TF32 on a GPU without being asked.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def set_precision(*, tf32: bool) -> None:
    """Have float32 multiplied as float32, or, where a run allows it, as TF32 on a GPU."""
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32  # of convolutions and recurrent networks


@contextmanager
def full_precision() -> Iterator[None]:
    """Have float32 multiplied as float32 within, whatever the run allows."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    set_precision(tf32=False)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
