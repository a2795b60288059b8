"""The family of learning-rate schedules: pure functions of the step, with nothing to save."""

import warnings
from collections.abc import Callable, Iterator
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from xmodal.components.component import Component
from xmodal.components.config import Duration, Mark, Span, Was, tag_of
from xmodal.errors import RenamedKeyWarning

# All kinds were once one class: each had the keys of the others, mostly by these defaults.
_OTHERS: dict[str, Any] = {"final": 0.0, "at": [], "factor": 0.1}


class Schedule:
    """A linear warm-up, then the schedule of the subclass."""

    def __init__(self, warmup: int = 0) -> None:
        self.warmup = warmup

    def factor(self, step: int, steps: int) -> float:
        """Return the share of the highest learning rate at `step`, from 0, of a stage's `steps`.

        Linear from 1 / warmup to 1 over the first `warmup` steps.
        """
        if step < self.warmup:
            return (step + 1) / self.warmup
        return self.after_warmup(step, steps)

    def after_warmup(self, step: int, steps: int) -> float:
        """Return the share at a step that is not below `warmup`."""
        raise NotImplementedError


class ScheduleConfig(Component):
    """A schedule of the learning rate.

    It builds a `Schedule`, or any class with its method `factor`.
    """

    family: ClassVar[str] = "schedule"
    default_kind: ClassVar[str] = "cosine"

    warmup: Annotated[Duration, Mark.MUTABLE] = Field(
        Span("5 %"), description="length of the linear rise"
    )
    constant: tuple[str, ...] = Field(
        (), description="parts with the rate lr throughout, by name or pattern as in train"
    )

    def build(self, steps_of: Callable[[Span], int]) -> Any:
        """Return the schedule; the class takes durations as the steps that `steps_of` gives."""
        given = {name: _in_steps(value, steps_of) for name, value in self.arguments.items()}
        return self.built_class()(**given)

    @property
    def arguments(self) -> dict[str, Any]:
        """The fields by name, as the class takes them; of `constant` parts it is not asked."""
        return {name: value for name, value in super().arguments.items() if name != "constant"}

    def advice(self, length: int, steps_of: Callable[[Span], int], key: str) -> Iterator[str]:
        """Yield warnings about values that have no effect in a stage of `length` steps.

        The schedule stands in the recipe at `key`.
        """
        if steps_of(self.warmup) > length:
            yield (
                f"schedule.warmup of {self.warmup} is longer than its {length:,} steps, so its "
                f"rate never reaches optimizer.lr; use {key}.warmup='5 %'"
            )

    @model_validator(mode="before")
    @classmethod
    def _without_keys_of_others(cls, values: Any) -> Any:
        """Drop the keys that every kind once had, where this kind never used them."""
        if not isinstance(values, dict):
            return values
        marks = [mark for field in cls.model_fields.values() for mark in field.metadata]
        own = {*cls.model_fields, *(mark.name for mark in marks if isinstance(mark, Was))}
        others = {
            key for key in _OTHERS.keys() & values.keys() - own if key != "at" or not values["at"]
        }
        for key in sorted(others - {"at"}):
            if values[key] != _OTHERS[key]:
                line = f"the key {key} has no effect on a schedule of kind {tag_of(cls)}"
                warnings.warn(RenamedKeyWarning(line, key), stacklevel=2)
        return {key: value for key, value in values.items() if key not in others}


def _in_steps(value: Any, steps_of: Callable[[Span], int]) -> Any:
    if isinstance(value, tuple):
        return tuple(_in_steps(one, steps_of) for one in value)
    return steps_of(value) if isinstance(value, Span) else value
