"""AdamW."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat

from xmodal.components.config import Mark
from xmodal.training.optimizers.config import OptimizerConfig


class AdamWConfig(OptimizerConfig):
    """AdamW (Loshchilov and Hutter 2019); decay on matrices only."""

    kind: Literal["adamw"] = "adamw"
    builds: ClassVar[str] = "torch.optim:AdamW"
    fuses: ClassVar[bool] = True
    betas: Annotated[tuple[float, float], Mark.MUTABLE] = Field(
        (0.9, 0.98), description="decay of the two moments"
    )
    eps: Annotated[PositiveFloat, Mark.MUTABLE] = Field(
        1e-6, description="added to the root of the second moment"
    )
    weight_decay: Annotated[NonNegativeFloat, Mark.MUTABLE] = Field(
        0.1, description="decay of matrices; vectors (biases, norms, temperature) never decay"
    )
