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
STEP = ("_step", "/xmodal/training/trainer.py")  # the function within which a wait counts


@contextmanager
def waits_in_steps(stage: int) -> Iterator[Counter[str]]:
    """Count the waits of training steps in the block, by the line of the product that waits.

    Not those of the first step of a stage, which compiles; stages have so many steps.
    """
    found: Counter[str] = Counter()

    def count(message: Warning | str, *_: Any, **__: Any) -> None:
        stack = list(_stack(sys._getframe(1)))
        steps = [frame.f_locals["self"].progress.step for frame in stack if _is_step(frame)]
        if SAID in str(message) and any(step % stage for step in steps):
            found[next(place for place in map(_place, stack) if "xmodal/" in place)] += 1

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


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    """Yield the frames of a stack, the innermost first."""
    while frame is not None:
        yield frame
        frame = frame.f_back


def _is_step(frame: FrameType) -> bool:
    name, file = STEP
    return frame.f_code.co_name == name and frame.f_code.co_filename.endswith(file)


def _place(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename.rpartition('/site-packages/')[2]}:{frame.f_lineno}"
