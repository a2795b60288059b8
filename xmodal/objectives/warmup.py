"""Objectives that change in the course of training."""

import math

from torch import nn


class Scheduled(nn.Module):
    """A module that depends on the progress of training, the share of the stage that is done."""

    progress: float = 0.0  # 0 at the first step, 1 at the end; set before each step


def linear_warmup(progress: float, share: float) -> float:
    """Return how much of a warm-up over the first `share` of a stage is done, 0 to 1."""
    return 1.0 if progress >= share else progress / share


def adversarial_ramp(progress: float) -> float:
    """Return 2 / (1 + e^(−10 p)) − 1: from 0 to nearly 1 (Ganin et al. 2016, section 5.2.2)."""
    return 2 / (1 + math.exp(-10 * progress)) - 1


def cosine_decay(progress: float, share: float, last: float) -> float:
    """Return what falls from 1 to `last` over the first `share` of a stage by half a cosine."""
    done = 1.0 if progress >= share else progress / share
    return last + (1 - last) * (1 + math.cos(math.pi * done)) / 2
