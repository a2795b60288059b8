"""The recipe: one YAML file and `key=value` overrides that say all of a run.

Every component owns its part (`xmodal/*/config.py`); this module puts the parts together, reads
them, and turns each mistake into one line that names the key, what was allowed and the nearest
right name. It imports no torch, so that help and errors come at once.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from xmodal.data.config import DataConfig
from xmodal.errors import UserError
from xmodal.evaluation.config import EvaluationConfig
from xmodal.methods.config import MethodConfig
from xmodal.overrides import parse_override, set_text, set_value
from xmodal.schema import Config, holds_secrets, models_of, shown, tag_of
from xmodal.training.config import CheckpointConfig, StageConfig, TrainingConfig
from xmodal.yaml_text import read_yaml

M = TypeVar("M", bound=BaseModel)


class Recipe(Config):
    """All that a run is made of."""

    run: str = Field(
        min_length=1, description="folder of the run; default: runs/ and the recipe's name"
    )
    data: DataConfig = Field(description="shards, order, batches")
    method: MethodConfig = Field(description="encoders and what they minimise")
    stages: list[StageConfig] = Field(
        [StageConfig()], min_length=1, description="one after another"
    )
    training: TrainingConfig = Field(TrainingConfig(), description="how the engine runs")
    evaluation: EvaluationConfig = Field(EvaluationConfig(), description="ranking data.val")
    checkpoints: CheckpointConfig = Field(CheckpointConfig(), description="what is kept")


def read_recipe(name: str, overrides: Sequence[str], folder: Path) -> Recipe:
    """Read a recipe by name (a YAML file of `folder`) or path and apply `key=value` overrides.

    Raises `UserError` for a recipe that is not there, is not YAML, or is wrong in a key or value.
    """
    path = _find(name, folder)
    values = read_yaml(path)
    values.setdefault("run", f"runs/{path.stem}")
    for override in overrides:
        set_text(Recipe, values, *parse_override(override))
    return validate(Recipe, values, str(path))


def with_values(recipe: Recipe, values: Mapping[str, Any], source: str) -> Recipe:
    """Return a recipe with other values, by their keys as in overrides.

    Raises `UserError`, which names `source`, where there are no such keys or the values are wrong.
    """
    changed = recipe.model_dump(mode="json", exclude_unset=True)
    for key, value in values.items():
        set_value(Recipe, changed, key, value)
    return validate(Recipe, changed, source)


def load_recipe(run: str | Path) -> Recipe:
    """Read the resolved recipe that a run folder holds."""
    path = Path(run) / "recipe.yaml"
    if not path.is_file():
        fault = "it has no recipe.yaml; train one first"
        if not Path(run).is_dir():
            fault = "it is a file" if Path(run).exists() else "there is no such folder"
        raise UserError(f"{run} is no run folder: {fault}")
    try:
        return validate(Recipe, read_yaml(path), str(path))
    except UserError as error:
        raise UserError(f"{error}; restore the file, or name another run") from None


def dump_recipe(recipe: Recipe) -> str:
    """Return the resolved recipe as YAML that `read_recipe` takes again."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def differences(old: BaseModel, new: BaseModel) -> list[str]:
    """Return the keys in which two recipes (or others) differ, as `key: old → new`."""
    before, after = (
        dict(_leaves(old.model_dump(mode="json"))),
        dict(_leaves(new.model_dump(mode="json"))),
    )
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return [f"{key}: {before.get(key)} → {after.get(key)}" for key in keys]


# What stands in a key for one of the many values that a field holds.
_POSITIONS: dict[Any, str] = {list: ".0", tuple: ".0", dict: ".NAME"}


def describe(model: type[BaseModel] = Recipe, path: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield (key, default, meaning) of every key of the schema, for `--help`."""
    for name, field in model.model_fields.items():
        key = f"{path}{name}"
        parts = models_of(field.annotation)
        meaning = "; ".join(filter(None, [field.description, "" if parts else _allowed(field)]))
        many = get_origin(field.annotation)
        if not parts or many is dict or (many in (list, tuple) and field.is_required()):
            default = "required" if field.is_required() else shown(field.get_default())
            yield key, default, meaning
        key += _POSITIONS.get(many, "") if parts else ""
        for part in parts:
            yield (
                key,
                part.__name__.removesuffix("Config"),
                (part.__doc__ or meaning).split("\n")[0],
            )
            yield from describe(part, f"{key}.")


def _find(name: str, folder: Path) -> Path:
    path = Path(name)
    if path.suffix in {".yaml", ".yml"} or path.parent != Path():
        if path.is_file():
            return path
        raise UserError(
            f"there is no recipe file {name}; name a YAML file, or a recipe: {_names(folder)}"
        )
    found = folder / f"{name}.yaml"
    if found.is_file():
        return found
    near = _nearest(name, [file.stem for file in folder.glob("*.yaml")])
    raise UserError(f"there is no recipe {name}{near}; known: {_names(folder)}")


def _names(folder: Path) -> str:
    return ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))


def validate(model: type[M], values: Any, source: str) -> M:
    """Return values as a model, each mistake in them one line of `UserError` about `source`."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = [_problem(detail, model) for detail in error.errors()]
        more = f" (and {len(problems) - 1} more: {'; '.join(problems[1:])})" if problems[1:] else ""
        raise UserError(f"{source}: {problems[0]}{more}") from None


def _problem(detail: ErrorDetails, top: type[BaseModel]) -> str:
    """Return what is wrong with one key: its path, what is allowed, the nearest right name."""
    key, model = _locate(detail["loc"], top)
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
            near = _nearest(tag, tags)
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
    near = _nearest(str(value), _literals(field.annotation) if field else [])
    return f"{key}: {shown(value)} is not allowed: {reason[0].lower()}{reason[1:]}{near}"


def _locate(
    location: tuple[int | str, ...], top: type[BaseModel]
) -> tuple[str, type[BaseModel] | None]:
    """Return the key of an error's location, and the model that the last part belongs to."""
    parts: list[str] = []
    model: type[BaseModel] | None = top
    candidates: list[type[BaseModel]] = []
    for part in location:
        tagged = [one for one in candidates if tag_of(one) == part]
        if tagged and len(candidates) > 1:
            model, candidates = tagged[0], []
            continue
        if candidates and not isinstance(part, int):
            model, candidates = candidates[0], []
        parts.append(str(part))
        if model and part in model.model_fields:
            candidates = models_of(model.model_fields[str(part)].annotation)
    return ".".join(parts), model


def _tags(field: FieldInfo | None) -> list[str]:
    return [str(tag_of(model)) for model in models_of(field.annotation)] if field else []


def _literals(annotation: Any) -> list[str]:
    """Return the values that a field names, alone or in a union."""
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    return [value for part in get_args(annotation) for value in _literals(part)]


def _allowed(field: FieldInfo) -> str:
    """Return the values that a field can have, where it does not take any of its type."""
    values = _literals(field.annotation)
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
    """Return what limits a field, or its value where there may also be none."""
    parts = get_args(field.annotation)
    optional = [part for part in parts if part is not type(None)] if type(None) in parts else []
    return [*field.metadata, *(m for part in optional for m in getattr(part, "__metadata__", ()))]


def _near_key(wrong: str, known: list[str], top: type[BaseModel]) -> str:
    """Return the nearest of the keys known here, else those of that name elsewhere."""
    name = _last(wrong)
    elsewhere = [key for key, _, _ in describe(top) if _last(key) == name and key != wrong]
    hint = f" (did you mean {' or '.join(dict.fromkeys(elsewhere))}?)" if elsewhere else ""
    return _nearest(name, known) or hint


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _leaves(values: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(values, dict) and values:
        for key, value in values.items():
            yield from _leaves(value, f"{path}.{key}" if path else key)
    elif isinstance(values, list) and any(isinstance(value, dict) for value in values):
        for position, value in enumerate(values):
            yield from _leaves(value, f"{path}.{position}")
    else:
        yield path, values
