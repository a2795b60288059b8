"""Learning rates and weights as pure functions of the step: there is nothing to save or restore."""

import math
from collections.abc import Sequence

from xmodal.objectives.schedule import adversarial_ramp
from xmodal.training.config import LossConfig, ScheduleConfig


def learning_rate_factor(
    schedule: ScheduleConfig, step: int, *, warmup: int, total: int, falls: Sequence[int] = ()
) -> float:
    """Return the share of the highest learning rate at `step` of `total`.

    Linear from 1/warmup to 1 over the first `warmup` steps; then half a cosine down to `final`
    (Loshchilov and Hutter 2017, without restarts), a constant, or a stair that `falls` at these
    steps.
    """
    if step < warmup:
        return (step + 1) / warmup
    match schedule.kind:
        case "constant":
            return 1.0
        case "steps":
            return float(schedule.factor ** sum(fall <= step for fall in falls))
        case "cosine":
            progress = min(1.0, (step - warmup) / max(1, total - warmup))
            return schedule.final + (1 - schedule.final) * (1 + math.cos(math.pi * progress)) / 2


def loss_weight(loss: LossConfig, progress: float) -> float:
    """Return a loss's weight when this share of its stage is done, 0 to 1."""
    ramps = {"none": 1.0, "linear": progress, "adversarial": adversarial_ramp(progress)}
    return loss.weight * ramps[loss.ramp]
