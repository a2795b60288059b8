"""Overrides of a recipe: `key=value`, where the key is a path of names and positions."""

from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from xmodal.components.component import holds_secrets, models_of
from xmodal.components.config import shown, tag_of
from xmodal.errors import UserError
from xmodal.yaml_text import parse_yaml

_QUOTES = ("'", '"')
_NULL = ("", "null", "Null", "NULL", "~")


def parse_override(override: str) -> tuple[str, str]:
    """Return the key and the text of an override."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        said = override.partition(":")[0]  # what follows may be a secret
        raise UserError(
            f"{said!r} is not an override; write key=value, such as data.batch_size=512"
        )
    return key, text


def set_text(model: type[BaseModel], values: dict[str, Any], key: str, text: str) -> None:
    """Set a key of a model's `values` to what `text` means there.

    The text is YAML. For names (paths, URLs) it is taken literally, without enclosing quotes; it is
    null only where the key may be null. Raises `UserError` for an unknown key.
    """
    node, last, annotation = _place(model, values, key)
    is_name = _is_name(annotation, text)
    try:
        value = parse_yaml(text)
    except ValueError as error:
        if not is_name or text[0] in _QUOTES:
            raise UserError(f"{key}: the value is not YAML: {error}; quote it") from None
        value = text
    is_null = text in _NULL and (not text or NoneType in get_args(annotation))
    is_quoted = isinstance(value, str) and text[0] in _QUOTES and text[-1] == text[0]
    value = text if is_name and not (is_null or is_quoted) else value
    if not isinstance(value, list | dict):
        _check_drops_nothing(node, last, annotation, key)
    node[last] = value


def _check_drops_nothing(node: Any, last: Any, annotation: Any, key: str) -> None:
    """Raise `UserError` where a single value would replace a list of mappings of several keys."""
    items = node[last] if isinstance(node, list) else node.get(last)
    mappings = [one for one in items if isinstance(one, dict)] if isinstance(items, list) else []
    held = {name for one in mappings for name in one}
    known = (name for model in models_of(annotation) for name in model.model_fields)
    names = [name for name in dict.fromkeys(known) if name in held]
    if len(names) > 1:
        first = items.index(mappings[0])
        raise UserError(
            f"{key}: a single value would drop the recipe's {', '.join(names)}; change a key, such "
            f"as {key}.{first}.{names[0]}=…, or replace all of it: {key}=[…]"
        )


def set_value(model: type[BaseModel], values: dict[str, Any], key: str, value: Any) -> None:
    """Set a key of a model's `values`; raises `UserError` where there is no such key."""
    node, last, _ = _place(model, values, key)
    node[last] = value


def _is_name(annotation: Any, text: str) -> bool:
    """Return whether text is a name for a field of this type; lists and mappings have brackets."""
    if get_origin(annotation) is Literal:
        return all(isinstance(value, str) for value in get_args(annotation))
    if models_of(annotation) or get_origin(annotation) in (list, tuple, dict):
        return not text.startswith(("[", "{"))
    if get_origin(annotation) in (Union, UnionType):
        return all(one is NoneType or _is_name(one, text) for one in get_args(annotation))
    return annotation is str


def _place(model: type[BaseModel], values: dict[str, Any], key: str) -> tuple[Any, Any, Any]:
    """Return the mapping or list that a key stands in, its name or position in it, and its type, so
    far as the model tells it.
    """
    *parents, last = key.split(".")
    node: Any = values
    owner: type[BaseModel] | None = model
    for part in parents:
        node, owner = _child(node, owner, part, key)
    if isinstance(node, list):
        return node, _position(node, last, key), None
    field = owner.model_fields.get(last) if owner else None
    return node, last, field.annotation if field else None


def _child(
    node: Any, model: type[BaseModel] | None, part: str, key: str
) -> tuple[Any, type[BaseModel] | None]:
    """Return the value at `part` of a mapping or list, and the model of its keys."""
    field = None
    if isinstance(node, list):
        child = node[_position(node, part, key)]
    else:
        field = model.model_fields.get(part) if model else None
        models = models_of(field.annotation) if field else []
        if node.get(part) is None:
            node[part] = _default(field)
            # Where there is nothing by default, a key of it means that there is to be something.
            if node[part] is None and len(models) == 1:
                node[part] = {}
        child = node[part]
        kind = child.get("kind") if isinstance(child, dict) else None
        models = [one for one in models if len(models) == 1 or tag_of(one) == kind]
        model = models[0] if models else None
    if not isinstance(child, dict | list):
        said = "" if field and holds_secrets(field.annotation) else f" {shown(child)}"
        raise UserError(f"{key}: {part} is the single value{said}, with no keys in it")
    return child, model


def _default(field: FieldInfo | None) -> Any:
    """Return the default value that an override changes where the YAML lacks the key."""
    default = {} if field is None or field.is_required() else field.get_default()
    if not isinstance(default, BaseModel):
        return to_jsonable_python(default)
    # Of a model no more than its kind and what is not filled in anyway: another kind may be meant.
    kind = {"kind": tag_of(type(default))} if tag_of(type(default)) else {}
    return kind | default.model_dump(mode="json", exclude_unset=True)


def _position(items: list[Any], part: str, key: str) -> int:
    if not (part.isascii() and part.isdigit()) or int(part) >= len(items):
        what = f"no position (from 0) in a list of {len(items)}"
        raise UserError(f"{key}: {part!r} is {what}; to set the whole list, write key=[a, b]")
    return int(part)
