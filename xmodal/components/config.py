"""Base classes of configurations; imports no torch, so that help is instant."""

import math
import os
import re
import warnings
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from xmodal.errors import RenamedKeyWarning, UserError
from xmodal.small_files import read_small


class Config(BaseModel):
    """A component's part of a recipe: unknown keys are errors, values never change."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, arbitrary_types_allowed=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _rename(cls, values: Any) -> Any:
        """Take keys by their old names too, with a warning that gives the new ones."""
        if not isinstance(values, dict):
            return values
        renamed = {
            mark.name: name
            for name, field in cls.model_fields.items()
            for mark in field.metadata
            if isinstance(mark, Was) and mark.name in values
        }
        for old, new in renamed.items():
            if new in values:
                raise ValueError(f"{old} is the old name of {new}: write {new} alone")
            said = f"the key {old} is now called {new}"
            warnings.warn(RenamedKeyWarning(said, old), stacklevel=2)
        return {renamed.get(key, key): value for key, value in values.items()}


@dataclass(frozen=True)
class Was:
    """The old name of a field, in its annotation: `Annotated[int, Was("size")]`."""

    name: str


class Mark(Enum):
    """Marks of a field, in its annotation: `Annotated[int, Mark.FREE]`."""

    FREE = "may change when a run or a sweep resumes: no weight depends on it"
    LASTING = "has an effect on a finished run too"
    MUTABLE = "may change while weights and optimiser continue, as in population-based training"


class Secret(Config):
    """Place of a secret: recipes, run folders and command lines name the place alone."""

    file: str | None = Field(None, description="file that holds it and nothing else")
    variable: str | None = Field(None, description="environment variable that holds it")

    @model_validator(mode="before")
    @classmethod
    def _is_a_place(cls, value: Any) -> Any:
        if isinstance(value, cls):
            return value
        match {key: one for key, one in value.items() if one} if isinstance(value, dict) else None:
            case {"file": str(), **others} if not others:
                return value
            case {"variable": str(name), **others} if not others and name.isidentifier():
                return value
        raise ValueError(
            "recipes and command lines hold no secrets, which others can read there; give the "
            "place of this one, as {file: PATH} or {variable: NAME}"
        )

    def read(self, key: str) -> str:
        """Return the secret; `UserError`, which names the key, where it is not in its place."""
        if self.variable:
            found = os.environ.get(self.variable, "")
            place = f"the environment variable {self.variable}"
        else:
            file = Path(str(self.file)).expanduser()
            found = read_small(file, 10_000).decode().strip() if file.is_file() else ""
            place = f"the file {file}"
        if not found:
            raise UserError(f"{key}: {place} is not there, or is empty")
        return found


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
                raise ValueError("a length in % needs a stage, whose length it is a share of")
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
    """Return the `kind` of a model; None where it has none."""
    return model.model_fields["kind"].default if "kind" in model.model_fields else None


def shown(value: Any) -> str:
    """Return a value as messages show it."""
    return "null" if value is None else str(value)
