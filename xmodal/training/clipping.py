"""Clipping of gradients without ZeRO, which does it by itself."""

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer


def clip_before_steps(optimizer: Optimizer, module: nn.Module, most: float) -> None:
    """Have an optimiser clip the gradients of a module to a norm of `most` before each step, where
    this is above zero, and keep the norm before it.

    DeepSpeed's own clipping waits for the device twice a step, as it copies its bounds there; has
    ranks exchange a norm that all of them have; and keeps none for the log.
    """

    @torch.no_grad()
    def clip(stepped: Any, *_: Any) -> None:
        gradients = [one.grad for one in module.parameters() if one.grad is not None]
        norm = torch.stack(torch._foreach_norm(gradients)).square().sum().sqrt()
        stepped._global_grad_norm = norm  # where DeepSpeed's engine looks for it
        if most:
            factor = torch.full_like(norm, most) / (norm + 1e-6)
            torch._foreach_mul_(gradients, factor.clamp(max=1.0))

    optimizer.register_step_pre_hook(clip)
