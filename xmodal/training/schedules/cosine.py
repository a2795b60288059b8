"""Half a cosine."""

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from xmodal.components.config import Mark, Was
from xmodal.training.schedules.config import Schedule, ScheduleConfig


class CosineConfig(ScheduleConfig):
    """Half a cosine down to `min_lr_ratio` of the learning rate."""

    kind: Literal["cosine"] = "cosine"
    builds: ClassVar[str] = "Cosine"
    min_lr_ratio: Annotated[float, Mark.MUTABLE, Was("final")] = Field(
        0.0, ge=0, le=1, description="share of the learning rate at the end"
    )


class Cosine(Schedule):
    """Half a cosine down to `min_lr_ratio` (Loshchilov and Hutter 2017, without restarts)."""

    def __init__(self, warmup: int = 0, min_lr_ratio: float = 0.0) -> None:
        super().__init__(warmup)
        self.min_lr_ratio = min_lr_ratio

    def after_warmup(self, step: int, steps: int) -> float:
        """Return the share at a step; past the last of `steps`, that of the end."""
        progress = min(1.0, (step - self.warmup) / max(1, steps - self.warmup))
        swing = (1 - self.min_lr_ratio) * (1 + math.cos(math.pi * progress))
        return self.min_lr_ratio + swing / 2
