"""The learning rate as a pure function of the step, so that there is nothing to save or restore."""

import math


def learning_rate_factor(step: int, *, warmup: int, total: int, final: float) -> float:
    """Return the share of the highest learning rate at `step` of `total`.

    Linear from 1/warmup to 1 over the first `warmup` steps, then half a cosine down to `final`
    (Loshchilov and Hutter 2017, without restarts).
    """
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    return final + (1 - final) * (1 + math.cos(math.pi * min(1.0, progress))) / 2
