"""The family of optimisers."""

from typing import Annotated, Any, ClassVar

from pydantic import Field, PositiveFloat, field_validator

from xmodal.components.component import Component
from xmodal.components.config import Mark

Decay = Annotated[float, Field(gt=0, le=1)]


class OptimizerConfig(Component):
    """An optimiser.

    `build(groups)` gives the class its parameter groups, and the fields that these are not made of:
    each group has the `weight_decay` of its parameters, and the engine sets its `lr` each step.
    """

    family: ClassVar[str] = "optimiser"
    default_kind: ClassVar[str] = "adamw"
    averages: ClassVar[bool] = False  # whether it keeps averaged weights, as an ema does
    fuses: ClassVar[bool] = False  # whether its class takes `fused`, a kernel for all weights

    lr: Annotated[PositiveFloat, Mark.MUTABLE] = Field(5e-4, description="highest learning rate")
    factors: dict[str, PositiveFloat] = Field(
        {},
        description="multiples of lr for parts, by name or pattern as in train; the last "
        "match counts",
    )
    layer_decay: dict[str, Decay] = Field(
        {},
        description="factor of lr from a layer to the one before it, by tower (a number alone: of "
        "all towers): heads have lr, the last block lr · d, the embeddings of n blocks lr · dⁿ⁺¹",
    )

    @field_validator("layer_decay", mode="before")
    @classmethod
    def _of_all(cls, decay: Any) -> Any:
        return {"*": decay} if type(decay) in (int, float) else decay

    @property
    def arguments(self) -> dict[str, Any]:
        """The fields by name, as the class takes them; groups are made of the others."""
        of_groups = ("factors", "layer_decay")
        return {k: value for k, value in super().arguments.items() if k not in of_groups}
