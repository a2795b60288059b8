"""Differences between two configurations, and the keys that may differ."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from xmodal.components.component import models_of
from xmodal.components.config import Mark, shown


def differences(old: BaseModel, new: BaseModel) -> list[str]:
    """Return the keys in which two configurations differ, as `key: old → new`."""
    return _differences(old.model_dump(mode="json"), new.model_dump(mode="json"))


def changes(old: BaseModel, new: BaseModel, apart_from: Mark = Mark.FREE) -> list[str]:
    """Return the differences in keys without a mark, as `key: old → new`: by default in those that
    weights depend on.
    """
    return _differences(_without(old, apart_from), _without(new, apart_from))


def is_marked(config: BaseModel, key: str, mark: Mark) -> bool:
    """Return whether a key of a configuration, or a key above it, has a mark."""
    node: Any = config
    for part in key.split("."):
        if isinstance(node, BaseModel):
            field = type(node).model_fields.get(part)
            if field and mark in field.metadata:
                return True
            node = getattr(node, part, None)
        elif isinstance(node, list | tuple) and part.isdigit():
            node = node[int(part)] if int(part) < len(node) else None
        else:
            node = node.get(part) if isinstance(node, dict) else None
    return False


def marked(model: type[BaseModel], mark: Mark) -> list[str]:
    """Return the names of the fields that have a mark, of a model and all that it holds."""
    return list(dict.fromkeys(_marked(model, mark, set())))


def _marked(model: type[BaseModel], mark: Mark, seen: set[type[BaseModel]]) -> Iterator[str]:
    if model in seen:  # an objective may hold another one
        return
    seen.add(model)
    for name, field in model.model_fields.items():
        if mark in field.metadata:
            yield name
            continue
        for part in models_of(field.annotation):
            yield from _marked(part, mark, seen)


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    before, after = dict(_leaves(old)), dict(_leaves(new))
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return [f"{key}: {shown(before.get(key))} → {shown(after.get(key))}" for key in keys]


def _without(config: BaseModel, mark: Mark) -> dict[str, Any]:
    """Return a configuration as JSON, without the fields that have a mark."""
    values = config.model_dump(mode="json")
    for name, field in type(config).model_fields.items():
        own = getattr(config, name)
        if mark in field.metadata:
            del values[name]
        elif isinstance(own, BaseModel):
            values[name] = _without(own, mark)
        elif isinstance(own, list) and any(isinstance(one, BaseModel) for one in own):
            values[name] = [_without(one, mark) for one in own]
    return values


def _leaves(values: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(values, dict) and values:
        for key, value in values.items():
            yield from _leaves(value, f"{path}.{key}" if path else key)
    elif isinstance(values, list) and any(isinstance(value, dict) for value in values):
        for position, value in enumerate(values):
            yield from _leaves(value, f"{path}.{position}")
    else:
        yield path, values
