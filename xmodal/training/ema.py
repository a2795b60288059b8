"""Exponential moving average of the weights."""

from typing import Any

import torch
from torch.optim import Optimizer

from xmodal.runs.averages import AVERAGE
from xmodal.training.config import EMAConfig

DECAY = "average_decay"  # its key in a parameter group


def keep_average(optimizer: Optimizer) -> None:
    """Have an optimiser average what it steps, after each step, by the decay of `set_decay`.

    The average begins with the weights after the first step. It is a part of the optimiser's state.
    """
    optimizer.register_step_post_hook(_average)


def set_decay(engine: Any, config: EMAConfig | None, steps: int) -> None:
    """Set the decay of a step, before which a stage has completed `steps` others.

    It depends on the step alone, as the learning rate does: there is nothing to save.
    """
    if config is not None:
        for group in engine.optimizer.param_groups:
            group[DECAY] = decay_at(config, steps)


def decay_at(config: EMAConfig, steps: int) -> float:
    """Return min(decay, t / (t + warmup)) after t `steps`, and 0 for the first step."""
    return min(config.decay, steps / (steps + config.warmup)) if steps else 0.0


@torch.no_grad()
def _average(optimizer: Optimizer, *_: Any) -> None:
    for group in optimizer.param_groups:
        for weights in group["params"]:
            if AVERAGE in optimizer.state.get(weights, ()):
                optimizer.state[weights][AVERAGE].lerp_(weights, 1 - group[DECAY])
            elif weights.grad is not None:  # else optimisers would not make the rest of its state
                optimizer.state[weights][AVERAGE] = weights.detach().clone()
