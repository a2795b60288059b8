"""Exponential moving averages of the weights."""

from functools import partial
from typing import Any

import torch
from torch.optim import Optimizer

from xmodal.methods.method import Method
from xmodal.runs.averages import AVERAGE, MOMENTUM
from xmodal.training.config import EMAConfig, StageConfig

DECAY = "{}_decay"  # of an average, by its key: a key in a parameter group


def averages_of(stage: StageConfig, method: Method) -> dict[str, EMAConfig]:
    """Return the averages that a stage keeps of a method's weights, by key: the one that is used
    in their place (`ema`), and that of the method's momentum encoder.
    """
    momentum = EMAConfig(decay=method.momentum) if method.momentum else None
    both = {AVERAGE: stage.ema, MOMENTUM: momentum}
    return {key: config for key, config in both.items() if config}


def keep_average(optimizer: Optimizer, key: str = AVERAGE) -> None:
    """Have an optimiser average what it steps, after each step, by the decay of `set_decay`.

    The average begins with the weights after the first step. It is a part of the optimiser's state.
    """
    optimizer.register_step_post_hook(partial(_average, key))


def set_decay(engine: Any, stage: StageConfig, steps: int) -> None:
    """Set the decay of a step, before which a stage has completed `steps` others.

    It depends on the step alone, as the learning rate does: there is nothing to save.
    """
    for key, config in averages_of(stage, engine.module).items():
        for group in engine.optimizer.param_groups:
            group[DECAY.format(key)] = decay_at(config, steps)


def decay_at(config: EMAConfig, steps: int) -> float:
    """Return min(decay, t / (t + warmup)) after t `steps`, and 0 for the first step."""
    return min(config.decay, steps / (steps + config.warmup)) if steps else 0.0


@torch.no_grad()
def _average(key: str, optimizer: Optimizer, *_: Any) -> None:
    for group in optimizer.param_groups:
        for weights in group["params"]:
            if key in optimizer.state.get(weights, ()):
                decay = group[DECAY.format(key)]
                optimizer.state[weights][key].lerp_(weights, 1 - decay)
            elif weights.grad is not None:  # else optimisers would not make the rest of its state
                optimizer.state[weights][key] = weights.detach().clone()
