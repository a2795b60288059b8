"""A constant rate."""

from typing import ClassVar, Literal

from xmodal.training.schedules.config import Schedule, ScheduleConfig


class ConstantConfig(ScheduleConfig):
    """The highest learning rate, after the warm-up."""

    kind: Literal["constant"] = "constant"
    builds: ClassVar[str] = "Constant"


class Constant(Schedule):
    """The highest learning rate, after the warm-up."""

    def after_warmup(self, step: int, steps: int) -> float:  # noqa: ARG002
        """Return 1."""
        return 1.0
