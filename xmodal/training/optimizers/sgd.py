"""Stochastic gradient descent."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat

from xmodal.components.config import Mark
from xmodal.training.optimizers.config import OptimizerConfig


class SGDConfig(OptimizerConfig):
    """Stochastic gradient descent with momentum."""

    kind: Literal["sgd"] = "sgd"
    builds: ClassVar[str] = "torch.optim:SGD"
    fuses: ClassVar[bool] = True
    momentum: Annotated[float, Mark.MUTABLE] = Field(
        0.9, ge=0, lt=1, description="momentum: share of the last step in the next"
    )
    weight_decay: Annotated[NonNegativeFloat, Mark.MUTABLE] = Field(
        0.0, description="decay of matrices, as a gradient"
    )
