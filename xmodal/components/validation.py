"""Validation of a configuration: each mistake is one line that names the key.

The line also gives the allowed values and the nearest known name.
"""

import difflib
from datetime import date
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from xmodal.components.component import holds_secrets, models_of
from xmodal.components.config import shown, tag_of
from xmodal.components.description import describe, literals
from xmodal.errors import UserError

M = TypeVar("M", bound=BaseModel)


def validate(model: type[M], values: Any, source: str) -> M:
    """Return values as a model, each mistake in them one line of `UserError` about `source`."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = [_problem(detail, model, values) for detail in error.errors()]
        more = f" (and {len(problems) - 1} more: {'; '.join(problems[1:])})" if problems[1:] else ""
        raise UserError(f"{source}: {problems[0]}{more}") from None


def _problem(detail: ErrorDetails, top: type[BaseModel], values: Any) -> str:
    """Return a line about one key: its path, the mistake, the allowed values, the nearest name."""
    key, model = _locate(detail["loc"], top, values)
    names = [part for part in key.split(".") if not part.isdigit()]
    field = model.model_fields.get(names[-1]) if model and names else None
    value, reason = detail["input"], detail["msg"].removeprefix("Value error, ")
    match detail["type"]:
        case "extra_forbidden":
            known = list(model.model_fields) if model else []
            near = _near_key(key, known, top)
            return f"unknown key {key}{near}; allowed: {', '.join(known)}"
        case "missing":
            return f"{key} is missing{f': {field.description}' if field else ''}"
        case "union_tag_not_found":
            return f"{key}.kind is missing; allowed: {', '.join(_tags(field))}"
        case "union_tag_invalid":
            tag, tags = str(detail["ctx"]["tag"]), _tags(field)
            near = nearest(tag, tags)
            return f"{key}.kind: {tag} is not allowed{near}; allowed: {', '.join(tags)}"
        case "model_type" | "model_attributes_type":
            reason = "input should be a mapping of keys"
        case "string_type" if isinstance(value, str | int | float | date):
            reason = f"{reason}: put it in quotes"
        case "value_error" if isinstance(value, dict):
            return f"{key}: {reason}"
        case "list_type" | "tuple_type" if field and not models_of(field.annotation):
            return f"{key}: {shown(value)} is not a list; write [{shown(value)}]"
    if field and holds_secrets(field.annotation):
        return f"{key}: {reason}"
    near = nearest(str(value), literals(field.annotation) if field else [])
    return f"{key}: {shown(value)} is not allowed: {reason[0].lower()}{reason[1:]}{near}"


def _locate(
    location: tuple[int | str, ...], top: type[BaseModel], values: Any
) -> tuple[str, type[BaseModel] | None]:
    """Return the key of an error's location, and the model that the last part belongs to."""
    model: type[BaseModel] | None = top
    models: list[type[BaseModel]] = []
    for part in location:
        if isinstance(part, str):
            model = _chosen(models, values) or model
            field = model.model_fields.get(part) if model else None
            models = models_of(field.annotation) if field else []
        values = _part(values, part)
    return ".".join(map(str, location)), model


def _chosen(models: list[type[BaseModel]], values: Any) -> type[BaseModel] | None:
    """Return which of the models that a field can hold a mapping describes."""
    if len(models) == 1:
        return models[0]
    kind = values.get("kind") if isinstance(values, dict) else None
    wanted = (kind or getattr(one, "default_kind", None) for one in models)
    return next((one for one, tag in zip(models, wanted, strict=True) if tag_of(one) == tag), None)


def _part(values: Any, part: int | str) -> Any:
    try:
        return values[part]
    except (KeyError, IndexError, TypeError):
        return None


def _tags(field: FieldInfo | None) -> list[str]:
    return [str(tag_of(model)) for model in models_of(field.annotation)] if field else []


def _near_key(wrong: str, known: list[str], top: type[BaseModel]) -> str:
    """Return the nearest of the keys known here, else those of that name elsewhere."""
    name = _last(wrong)
    elsewhere = [key for key, _, _ in describe(top) if _last(key) == name and key != wrong]
    hint = f" (did you mean {' or '.join(dict.fromkeys(elsewhere))}?)" if elsewhere else ""
    return nearest(name, known) or hint


def nearest(name: str, known: list[str]) -> str:
    """Return ` (did you mean X?)` of the known name that is nearest, or nothing."""
    near = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _last(key: str) -> str:
    return key.rpartition(".")[2]
