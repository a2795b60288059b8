"""Adam and AMSGrad."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat

from xmodal.components.config import Mark
from xmodal.training.optimizers.config import OptimizerConfig


class AdamConfig(OptimizerConfig):
    """Adam (Kingma and Ba 2015) or AMSGrad (Reddi et al. 2018), without decay."""

    kind: Literal["adam"] = "adam"
    builds: ClassVar[str] = "torch.optim:Adam"
    fuses: ClassVar[bool] = True
    betas: Annotated[tuple[float, float], Mark.MUTABLE] = Field(
        (0.9, 0.999), description="decay of the two moments"
    )
    eps: Annotated[PositiveFloat, Mark.MUTABLE] = Field(
        1e-8, description="added to the root of the second moment"
    )
    amsgrad: bool = Field(
        False, description="divide by the greatest second moment so far (AMSGrad)"
    )
