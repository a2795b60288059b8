"""Garbage collection between steps, at the same ones on all ranks, so that none waits for another.

Python collects when enough objects were made, on each rank at a time of its own: up to a second in
which all other ranks wait in the next exchange, at every few steps on a rank or another.
"""

import gc
import os
from types import TracebackType
from typing import Self

FULL_EVERY = 100  # steps


class ScheduledCollection:
    """Context in which Python collects garbage only after steps.

    After each step, what the step itself made is collected, which takes little; after every
    `FULL_EVERY` of them, all that was made since the context began.
    """

    def __enter__(self) -> Self:
        self.was_enabled = gc.isenabled()
        gc.collect()
        gc.freeze()  # modules, models, engines: they stay, and need not be looked through
        gc.disable()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        gc.unfreeze()
        if self.was_enabled:
            gc.enable()

    def after_step(self, step: int) -> None:
        """Collect after a step."""
        gc.collect(2 if step % FULL_EVERY == 0 else 0)


# Loaders are forked, and wait for nobody.
os.register_at_fork(after_in_child=gc.enable)
