"""Optimisers of timm, by name."""

from importlib import import_module
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, NonNegativeFloat

from xmodal.components.config import Mark
from xmodal.components.validation import nearest
from xmodal.errors import UserError
from xmodal.training.optimizers.config import OptimizerConfig


class TimmOptimizerConfig(OptimizerConfig):
    """An optimiser of timm: lion, adafactor, muon, lamb, adan, …, with timm's defaults."""

    kind: Literal["timm"] = "timm"
    builds: ClassVar[str] = "timm_optimizer"
    name: str = Field(description="timm's name of it, such as lion, adafactor, muon")
    weight_decay: Annotated[NonNegativeFloat, Mark.MUTABLE] = Field(
        0.0, description="decay of matrices, as the optimiser applies it"
    )
    fallback: list[str] = Field(
        [],
        description="parts that an optimiser of matrices (muon) leaves to its AdamW besides "
        "vectors, by name or pattern as in train",
    )
    options: dict[str, Any] = Field({}, description="further arguments of timm's class")

    @property
    def arguments(self) -> dict[str, Any]:
        """The fields by name, as timm takes them; the groups are made of the others."""
        of_groups = ("weight_decay", "fallback")
        return {name: value for name, value in super().arguments.items() if name not in of_groups}


def timm_optimizer(
    groups: list[dict[str, Any]], name: str, lr: float, options: dict[str, Any]
) -> Any:
    """Return timm's optimiser of a name over parameter groups.

    Raises `UserError` for an unknown name, and options that it does not take.
    """
    timm: Any = import_module("timm.optim")
    # A step of others needs second derivatives.
    known = [n for n in timm.list_optimizers() if not timm.get_optimizer_info(n).second_order]
    if name not in known:
        raise UserError(
            f"stages: optimizer.name: {name} is not allowed{nearest(name, known)}; allowed: "
            + ", ".join(known)
        )
    try:
        return timm.create_optimizer_v2(groups, name, lr, **options)
    except (TypeError, ValueError, AssertionError, ImportError) as error:
        raise UserError(
            f"stages: optimizer: {name} of timm cannot be made with options={options}: {error}"
        ) from None
