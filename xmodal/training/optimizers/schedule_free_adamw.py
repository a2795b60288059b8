"""Schedule-free AdamW."""

from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat
from torch import Tensor

from xmodal.components.config import Mark
from xmodal.training.optimizers.config import OptimizerConfig
from xmodal.training.optimizers.schedule_free import ScheduleFree


class ScheduleFreeAdamWConfig(OptimizerConfig):
    """Schedule-free AdamW: for a constant schedule; its averaged weights are the result."""

    kind: Literal["schedule_free_adamw"] = "schedule_free_adamw"
    builds: ClassVar[str] = "ScheduleFreeAdamW"
    averages: ClassVar[bool] = True
    betas: Annotated[tuple[float, float], Mark.MUTABLE] = Field(
        (0.9, 0.999), description="share of the average in the weights; decay of the second moment"
    )
    eps: Annotated[PositiveFloat, Mark.MUTABLE] = Field(
        1e-8, description="added to the root of the second moment"
    )
    weight_decay: Annotated[NonNegativeFloat, Mark.MUTABLE] = Field(
        0.1, description="decay of matrices; vectors (biases, norms, temperature) never decay"
    )


class ScheduleFreeAdamW(ScheduleFree):
    """AdamW without a first moment, schedule-free (Defazio et al. 2024, algorithm 1)."""

    def __init__(
        self, params: Any, lr: float, betas: tuple[float, float], eps: float, weight_decay: float
    ) -> None:
        beta, beta2 = betas
        super().__init__(params, lr=lr, beta=beta, beta2=beta2, eps=eps, weight_decay=weight_decay)

    def moments(self, weights: Tensor) -> dict[str, Tensor]:
        """Return the second moment, zero."""
        return {"exp_avg_sq": torch.zeros_like(weights)}

    def move(
        self,
        z: Tensor,
        weights: Tensor,
        gradient: Tensor,
        state: dict[str, Any],
        group: dict[str, Any],
    ) -> None:
        """Step `z` by the normalised gradient, and by the decay of the weights."""
        lr, beta2, moment = group["lr"], group["beta2"], state["exp_avg_sq"]
        moment.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        root = (moment / (1 - beta2 ** state["steps"])).sqrt_().add_(group["eps"])
        z.sub_(weights, alpha=lr * group["weight_decay"]).addcdiv_(gradient, root, value=-lr)
