"""In which precision float32 is multiplied, and by which kernels: the flags of torch, which are set
here alone.

Products, convolutions and recurrent networks have a flag each, and torch's defaults round some of
them to TF32 on a GPU without being asked.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from xmodal.errors import UserError


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


def choose_kernels(*, deterministic: bool) -> None:
    """Have torch compute by deterministic kernels alone, or else by the fastest.

    Which convolution is fastest is measured for each size: images of a run have one size.
    """
    torch.use_deterministic_algorithms(deterministic)
    # To fill new memory finds bugs, and takes time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        # Of cuBLAS, which reads it at the first product: its streams then share no workspace.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@contextmanager
def refusing_other_kernels(key: str) -> Iterator[None]:
    """Raise `UserError`, which names `key`, where an operation has no deterministic kernel."""
    try:
        yield
    except RuntimeError as error:
        operation, found, _ = str(error).partition(" does not have a deterministic implementation")
        if not found:
            raise
        raise UserError(
            f"{key}: {operation} has no deterministic kernel on this device; set it to false, or "
            "train another encoder"
        ) from error
