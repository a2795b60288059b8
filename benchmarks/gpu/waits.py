"""Waits of the host for the device in training steps, found by torch's sync debug mode."""

import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch

SAID = "synchronizing CUDA operation"
INSIDE = "gradient_cache.py"  # through which all encoders and objectives of a step are called


@contextmanager
def waits_in_steps() -> Iterator[Counter[str]]:
    """Count the waits of encoders and objectives in the block by the line that causes them."""
    found: Counter[str] = Counter()

    def count(message: Warning | str, *_: Any, **__: Any) -> None:
        lines = list(_lines(sys._getframe(1)))
        if SAID in str(message) and any(INSIDE in line for line in lines):
            found[next(line for line in lines if "xmodal/" in line)] += 1

    before = warnings.showwarning
    torch.cuda.set_sync_debug_mode("warn")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = count
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")
            warnings.showwarning = before


def _lines(frame: FrameType | None) -> Iterator[str]:
    """Yield the lines of a stack, the innermost first."""
    while frame is not None:
        yield f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
