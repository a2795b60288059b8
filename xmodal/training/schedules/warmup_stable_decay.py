"""A warm-up, a constant rate, and a cool-down."""

import math
from collections.abc import Callable, Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from xmodal.components.config import Duration, Mark, Span
from xmodal.training.schedules.config import Schedule, ScheduleConfig


class WarmupStableDecayConfig(ScheduleConfig):
    """The highest learning rate, then a cool-down over the last steps of the stage."""

    kind: Literal["warmup_stable_decay"] = "warmup_stable_decay"
    builds: ClassVar[str] = "WarmupStableDecay"
    cooldown: Annotated[Duration, Mark.MUTABLE] = Field(
        Span("20 %"), description="length of the fall at the stage's end"
    )
    shape: Annotated[Literal["linear", "1-sqrt"], Mark.MUTABLE] = Field(
        "1-sqrt", description="fall over its progress p, 0 to 1: 1 - p; 1 - sqrt(p)"
    )
    min_lr_ratio: Annotated[float, Mark.MUTABLE] = Field(
        0.0, ge=0, le=1, description="share of the learning rate at the end"
    )

    def advice(self, length: int, steps_of: Callable[[Span], int], key: str) -> Iterator[str]:
        """Yield also a line where warm-up and cool-down do not fit into the stage."""
        yield from super().advice(length, steps_of, key)
        if steps_of(self.warmup) <= length < steps_of(self.warmup) + steps_of(self.cooldown):
            yield (
                f"schedule.warmup of {self.warmup} and cooldown of {self.cooldown} are longer than "
                f"its {length:,} steps, so the cool-down is cut; use {key}.cooldown='20 %'"
            )


class WarmupStableDecay(Schedule):
    """The highest rate, then a fall to `min_lr_ratio` over the last `cooldown` steps.

    Hägele et al. 2024 (arXiv 2405.18392): a fall by `1-sqrt` ends lower than a linear one.
    """

    def __init__(
        self,
        warmup: int = 0,
        cooldown: int = 0,
        shape: Literal["linear", "1-sqrt"] = "1-sqrt",
        min_lr_ratio: float = 0.0,
    ) -> None:
        super().__init__(warmup)
        self.cooldown, self.shape, self.min_lr_ratio = cooldown, shape, min_lr_ratio

    def after_warmup(self, step: int, steps: int) -> float:
        """Return the share at a step; past the last of `steps`, that of the end."""
        begins = max(self.warmup, steps - self.cooldown)
        progress = min(1.0, max(0, step - begins) / max(1, steps - begins))
        fallen = math.sqrt(progress) if self.shape == "1-sqrt" else progress
        return 1 - (1 - self.min_lr_ratio) * fallen
