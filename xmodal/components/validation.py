"""Validation of a configuration: each mistake is one line that names the key.

The line also gives the allowed values and the nearest known name.
"""

import difflib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from inspect import get_annotations
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from xmodal.components.component import holds_secrets, models_of
from xmodal.components.config import Was, shown, tag_of
from xmodal.components.description import describe, literals
from xmodal.errors import RenamedKeyWarning, UserError

NAMED_KEYS = 4
PLUGIN_HINT = "; a kind from elsewhere needs its module: plugins=MODULE"
M = TypeVar("M", bound=BaseModel)


def validate(model: type[M], values: Any, source: str) -> M:
    """Return values as a model, mistakes in them one line of `UserError` about `source`: the first,
    and the keys of others.

    Warnings about renamed keys name the source and the place.
    """
    try:
        with _placing_warnings(values, source):
            return model.model_validate(values)
    except ValidationError as error:
        first, *others = error.errors()
        keys = [_locate(one["loc"], model, values)[0] for one in others]
        cut = ", …" if len(keys) > NAMED_KEYS else ""
        more = f" (and {len(keys)} more: {', '.join(keys[:NAMED_KEYS])}{cut})" if keys else ""
        raise UserError(f"{source}: {_problem(first, model, values)}{more}") from None


def check_path(model: type[BaseModel], values: Any, key: str, source: str) -> None:
    """Raise `UserError` for a key, a path of names and positions, that values cannot have, of
    whatever kind its parents may still become.
    """
    models, path = [model], ""
    for part in key.split("."):
        if not part.isdigit():
            path = f"{path}.{part}" if path else part
            fields = [one.model_fields[part] for one in models if part in one.model_fields]
            if models and not fields and not any(part in _old_names(one) for one in models):
                known = list(dict.fromkeys(name for one in models for name in _own_first(one)))
                raise UserError(f"{source}: unknown key {path}{_near_key(path, known, model)}")
            models = [one for field in fields for one in models_of(field.annotation)]
        values = _part(values, part)
        chosen = _chosen(models, values)
        models = [chosen] if chosen else models


def _old_names(model: type[BaseModel]) -> list[str]:
    marks = (mark for field in model.model_fields.values() for mark in field.metadata)
    return [mark.name for mark in marks if isinstance(mark, Was)]


@contextmanager
def _placing_warnings(values: Any, source: str) -> Iterator[None]:
    """Add the source, and where in the values the key stands, to warnings about renamed keys."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        yield
    for text, one in {str(one.message): one for one in heard}.items():
        if isinstance(one.message, RenamedKeyWarning):
            old = one.message.old
            places = ", ".join(f"{path}: " for path in _holding(values, old) if path)
            warnings.warn(RenamedKeyWarning(f"{source}: {places}{text}", old), stacklevel=2)
        else:
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


def _holding(values: Any, key: str, path: str = "") -> Iterator[str]:
    """Yield the paths of all mappings in the values that have a key."""
    if isinstance(values, dict) and key in values:
        yield path
    named = values.items() if isinstance(values, dict) else enumerate(values)
    for name, value in named:
        if isinstance(value, dict | list | tuple):
            yield from _holding(value, key, f"{path}.{name}" if path else str(name))


def _problem(detail: ErrorDetails, top: type[BaseModel], values: Any) -> str:
    """Return a line about one key: its path, the mistake, the allowed values, the nearest name."""
    key, model = _locate(detail["loc"], top, values)
    names = [part for part in key.split(".") if not part.isdigit()]
    field = model.model_fields.get(names[-1]) if model and names else None
    value, reason = detail["input"], detail["msg"].removeprefix("Value error, ")
    match detail["type"]:
        case "extra_forbidden":
            return _unknown_key(key, model, top)
        case "missing":
            return f"{key} is missing{f': {field.description}' if field else ''}"
        case "union_tag_not_found":
            return f"{key}.kind is missing; allowed: {', '.join(_tags(field))}"
        case "union_tag_invalid":
            plugins = _lacks_plugins(top, values)
            return _unknown_kind(key, str(detail["ctx"]["tag"]), _tags(field), plugins)
        case "unknown_name":
            return f"{key}: {shown(value)} is not allowed{detail['msg']}"
        case "model_type" | "model_attributes_type":
            reason = "input should be a mapping of keys"
        case "string_type" if isinstance(value, str | int | float | date):
            reason = f"{reason}: put it in quotes"
        case "value_error" if isinstance(value, dict):
            return f"{key}: {reason}" if key else reason
        case "list_type" | "tuple_type" if field:
            return _no_list(key, field, value)
    return _wrong_value(key, field, value, reason)


def _wrong_value(key: str, field: FieldInfo | None, value: Any, reason: str) -> str:
    if field and holds_secrets(field.annotation):
        return f"{key}: {reason}"
    near = nearest(str(value), literals(field.annotation) if field else [])
    return f"{key}: {shown(value)} is not allowed: {reason[0].lower()}{reason[1:]}{near}"


def _unknown_key(key: str, model: type[BaseModel] | None, top: type[BaseModel]) -> str:
    known = _own_first(model) if model else []
    return f"unknown key {key}{_near_key(key, known, top)}; allowed: {', '.join(known)}"


def _unknown_kind(key: str, tag: str, tags: list[str], lacks_plugins: bool) -> str:
    near = nearest(tag, tags)
    hint = PLUGIN_HINT if lacks_plugins else ""
    return f"{key}.kind: {tag} is not allowed{near}; allowed: {', '.join(tags)}{hint}"


def _no_list(key: str, field: FieldInfo, value: Any) -> str:
    kinds = [tag for tag in _tags(field) if tag != "None"]
    listed = f"; kinds: {', '.join(kinds)}" if kinds else ""
    if holds_secrets(field.annotation):
        return f"{key}: the value is not a list; write [{{kind: …}}]{listed}"
    text = in_yaml(value)
    return f"{key}: {text} is not a list; write [{text}]{listed}"


def _own_first(model: type[BaseModel]) -> list[str]:
    """Return the fields of a model, its own before those that it inherits."""
    own = [get_annotations(one).keys() for one in model.__mro__]
    return sorted(
        model.model_fields, key=lambda name: next(n for n, one in enumerate(own) if name in one)
    )


def _lacks_plugins(top: type[BaseModel], values: Any) -> bool:
    """Return whether values may name plugins, and name none."""
    return "plugins" in top.model_fields and not values.get("plugins")


def in_yaml(value: Any) -> str:
    """Return a value in one line of YAML."""
    if not isinstance(value, dict):
        return shown(value)
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).strip()


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
    """Return the nearest of the keys known here, else those of that name elsewhere: none where
    the key is that of another kind.
    """
    name = _last(wrong)
    named = dict.fromkeys(key for key, _, _ in describe(top) if _last(key) == name)
    hint = f" (did you mean {' or '.join(named)}?)" if named and wrong not in named else ""
    return nearest(name, known) or hint


def nearest(name: str, known: list[str]) -> str:
    """Return ` (did you mean X?)` of the known name that is nearest, or nothing."""
    near = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _last(key: str) -> str:
    return key.rpartition(".")[2]
