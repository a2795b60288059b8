"""The family of optimisers."""

from typing import Annotated, Any, ClassVar

from pydantic import Field, PositiveFloat

from xmodal.components.component import Component
from xmodal.components.config import Mark


class OptimizerConfig(Component):
    """An optimiser.

    `build(groups)` gives the class its parameter groups, and the fields but `factors` by name:
    each group has the `weight_decay` of its parameters, and the engine sets its `lr` each step.
    """

    family: ClassVar[str] = "optimiser"
    default_kind: ClassVar[str] = "adamw"
    averages: ClassVar[bool] = False  # whether it keeps averaged weights, as an ema does

    lr: Annotated[PositiveFloat, Mark.MUTABLE] = Field(5e-4, description="highest learning rate")
    factors: dict[str, PositiveFloat] = Field(
        {},
        description="multiples of lr for parts, by name or pattern as in train; the last "
        "match counts",
    )

    @property
    def arguments(self) -> dict[str, Any]:
        """The fields by name, as the class takes them; the groups are made of `factors`."""
        return {name: value for name, value in super().arguments.items() if name != "factors"}
