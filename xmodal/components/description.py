"""Keys of a configuration with their meaning, for `--help`."""

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from xmodal.components.component import models_of
from xmodal.components.config import shown

# What stands in a key for one of the many values that a field holds.
_POSITIONS: dict[Any, str] = {list: ".0", tuple: ".0", dict: ".NAME"}


def describe(
    model: type[BaseModel], path: str = "", parents: tuple[type[BaseModel], ...] = ()
) -> Iterator[tuple[str, str, str]]:
    """Yield (key, default, meaning) of every key of the schema, for `--help`."""
    if model in parents:  # a component of components of its own family
        return
    for name, field in model.model_fields.items():
        key = f"{path}{name}"
        parts = models_of(field.annotation)
        meaning = "; ".join(filter(None, [field.description, "" if parts else _allowed(field)]))
        many = get_origin(field.annotation)
        is_open = field.is_required() or not field.default  # nothing by default that would be shown
        if not parts or many is dict or (many in (list, tuple) and is_open):
            default = "required" if field.is_required() else shown(field.get_default())
            yield key, default, meaning
        key += _POSITIONS.get(many, "") if parts else ""
        for part in parts:
            yield (
                key,
                part.__name__.removesuffix("Config"),
                (part.__doc__ or meaning).split("\n")[0],
            )
            yield from describe(part, f"{key}.", (*parents, model))


def literals(annotation: Any) -> list[str]:
    """Return the values that a field names, alone or in a union."""
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    return [value for part in get_args(annotation) for value in literals(part)]


def _allowed(field: FieldInfo) -> str:
    """Return the values that a field can have, where it does not take any of its type."""
    values = literals(field.annotation)
    if len(values) > 1:
        return f"one of {', '.join(values)}"
    if values and type(None) in get_args(field.annotation):
        return f"{values[0]} or null"
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    bounds = [
        f"{sign} {getattr(limit, name)}"
        for limit in _metadata(field)
        for name, sign in signs.items()
        if hasattr(limit, name)
    ]
    return ", ".join(bounds)


def _metadata(field: FieldInfo) -> list[Any]:
    """Return the limits of a field, also of one that may be null."""
    parts = get_args(field.annotation)
    optional = [part for part in parts if part is not type(None)] if type(None) in parts else []
    return [*field.metadata, *(m for part in optional for m in getattr(part, "__metadata__", ()))]
