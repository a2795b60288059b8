"""Schedule-free stochastic gradient descent."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat
from torch import Tensor

from xmodal.components.config import Mark
from xmodal.training.optimizers.config import OptimizerConfig
from xmodal.training.optimizers.schedule_free import ScheduleFree


class ScheduleFreeSGDConfig(OptimizerConfig):
    """Schedule-free SGD: for a constant schedule; its averaged weights are the result."""

    kind: Literal["schedule_free_sgd"] = "schedule_free_sgd"
    builds: ClassVar[str] = "ScheduleFreeSGD"
    averages: ClassVar[bool] = True
    momentum: Annotated[float, Mark.MUTABLE] = Field(
        0.9, ge=0, lt=1, description="share of the average in the weights"
    )
    weight_decay: Annotated[NonNegativeFloat, Mark.MUTABLE] = Field(
        0.0, description="decay of matrices, as a gradient"
    )


class ScheduleFreeSGD(ScheduleFree):
    """Stochastic gradient descent, schedule-free (Defazio et al. 2024, equations 5 to 7)."""

    def __init__(self, params: Any, lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(params, lr=lr, beta=momentum, weight_decay=weight_decay)

    def moments(self, weights: Tensor) -> dict[str, Tensor]:  # noqa: ARG002
        """Return nothing."""
        return {}

    def move(
        self,
        z: Tensor,
        weights: Tensor,
        gradient: Tensor,
        state: dict[str, Any],  # noqa: ARG002
        group: dict[str, Any],
    ) -> None:
        """Step `z` by the gradient and the decay of the weights."""
        z.sub_(gradient.add(weights, alpha=group["weight_decay"]), alpha=group["lr"])
