"""Schedule-free learning: what its optimisers have in common."""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from xmodal.runs.averages import AVERAGE


class ScheduleFree(Optimizer):
    """Schedule-free learning (Defazio et al. 2024, arXiv 2405.15682).

    A sequence z takes the steps, x is its average, which is measured and used, and gradients are
    taken between the two, at the weights of training y (equations 5 to 7, β the momentum):

        z ← z - lr · step(∇loss(y))
        x ← (1 - c) x + c z
        y ← (1 - β) z + β x

    where c is lr² over the sum of all lr² so far, lr the highest one up to then (their section
    on warm-up). A subclass steps z.

    The package schedulefree counts steps in the parameter groups, which ZeRO 3 steps piece by
    piece, and which are not part of what is resharded. Here all is state of the tensor.
    """

    def __init__(self, params: Any, *, lr: float, beta: float, **defaults: Any) -> None:
        super().__init__(params, {"lr": lr, "beta": beta, **defaults})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override] # noqa: ARG002
        """Step all weights that have a gradient."""
        for group in self.param_groups:
            for weights in group["params"]:
                if weights.grad is not None:
                    self._step(weights, weights.grad, self.state[weights], group)

    def _step(
        self, weights: Tensor, gradient: Tensor, state: dict[str, Any], group: dict[str, Any]
    ) -> None:
        if not state:
            state |= {"steps": 0, "lr_max": 0.0, "weight_sum": 0.0}
            state |= {"z": weights.clone(), AVERAGE: weights.clone()} | self.moments(weights)
        state["steps"] += 1
        state["lr_max"] = max(state["lr_max"], group["lr"])
        state["weight_sum"] += state["lr_max"] ** 2
        self.move(state["z"], weights, gradient, state, group)
        state[AVERAGE].lerp_(state["z"], state["lr_max"] ** 2 / state["weight_sum"])
        weights.copy_(state["z"].lerp(state[AVERAGE], group["beta"]))

    def moments(self, weights: Tensor) -> dict[str, Tensor]:
        """Return what the state has of moments of the gradient, before the first step."""
        raise NotImplementedError

    def move(
        self,
        z: Tensor,
        weights: Tensor,
        gradient: Tensor,
        state: dict[str, Any],
        group: dict[str, Any],
    ) -> None:
        """Step `z` in place, by the gradient at `weights`; `state["steps"]` counts this one."""
        raise NotImplementedError
