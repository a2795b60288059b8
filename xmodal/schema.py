"""What every component's configuration is made of; imports no torch, so that help is instant."""

import math
import re
from typing import Annotated, Any, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer


class Config(BaseModel):
    """A component's part of a recipe: unknown keys are errors, values never change."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, arbitrary_types_allowed=True, allow_inf_nan=False
    )


_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?(?:e[+-]?\d+)?)\s*(steps?|epochs?|samples?|%)?\s*", re.I)


class Span:
    """A stretch of training: `500 steps`, `2 epochs`, `1e6 samples`, `5 %`; a bare number is steps.

    A percentage is of the length of the stage that the span stands in.
    """

    def __init__(self, text: str | int | float) -> None:
        match = _DURATION.fullmatch(str(text))
        if not match or math.isinf(float(match[1])):
            raise ValueError("write a number with steps, epochs, samples or %, such as '10 epochs'")
        self.amount = float(match[1])
        unit = (match[2] or "steps").lower()
        self.unit = unit if unit == "%" else unit.rstrip("s") + "s"

    def __str__(self) -> str:
        return f"{str(self.amount).removesuffix('.0')} {self.unit}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Span) and (self.amount, self.unit) == (other.amount, other.unit)

    def __hash__(self) -> int:
        return hash((self.amount, self.unit))

    def steps(self, *, batch_size: int, epoch_samples: int, stage_steps: int | None = None) -> int:
        """Return the span in optimiser steps, at least 1 unless the span is zero.

        Raises `ValueError` for a percentage where there is no stage to take it of.
        """
        if self.unit == "%":
            if stage_steps is None:
                raise ValueError("a length in % has nothing to be a part of")
            exact = self.amount / 100 * stage_steps
        else:
            samples = {"steps": batch_size, "epochs": epoch_samples, "samples": 1}[self.unit]
            exact = self.amount * samples / batch_size
        return max(1, round(exact)) if self.amount else 0


def _span(value: Any) -> Span:
    return value if isinstance(value, Span) else Span(value)


Duration = Annotated[
    Span,
    BeforeValidator(_span),
    PlainSerializer(str, return_type=str),
]


def tag_of(model: type[BaseModel]) -> Any:
    """Return the `kind` that a model is told apart by; None where it has none."""
    return model.model_fields["kind"].default if "kind" in model.model_fields else None


def models_of(annotation: Any) -> list[type[BaseModel]]:
    """Return the models that a field can hold: itself, of a union, of a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in models_of(part)]


def shown(value: Any) -> str:
    """Return a value as messages show it."""
    return "null" if value is None else str(value)
