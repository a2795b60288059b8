"""A rate that falls at some steps."""

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat

from xmodal.components.config import Duration, Mark, Span, Was
from xmodal.training.schedules.config import Schedule, ScheduleConfig


class StepsConfig(ScheduleConfig):
    """A stair: `gamma` times the rate before, at each of `milestones`."""

    kind: Literal["steps"] = "steps"
    builds: ClassVar[str] = "Steps"
    milestones: Annotated[tuple[Duration, ...], Mark.MUTABLE, Was("at")] = Field(
        min_length=1, description="when the rate falls, counted from the stage's start"
    )
    gamma: Annotated[PositiveFloat, Mark.MUTABLE, Was("factor")] = Field(
        0.1, description="factor of the rate at each of `milestones`"
    )

    def advice(self, length: int, steps_of: Callable[[Span], int], key: str) -> Iterator[str]:
        """Yield also a line where no milestone lies in the stage."""
        yield from super().advice(length, steps_of, key)
        first = min(map(steps_of, self.milestones))
        if first >= length:
            yield (
                f"its rate falls first at step {first:,}, after its {length:,} steps; use "
                f"{key}.milestones=['50 %']"
            )


class Steps(Schedule):
    """`gamma` times the rate before, at each of `milestones`, in steps of the stage."""

    def __init__(self, milestones: Sequence[int], warmup: int = 0, gamma: float = 0.1) -> None:
        super().__init__(warmup)
        self.milestones, self.gamma = milestones, gamma

    def after_warmup(self, step: int, steps: int) -> float:  # noqa: ARG002
        """Return `gamma` to the power of the number of milestones that are reached."""
        return float(self.gamma ** sum(one <= step for one in self.milestones))
