"""Functions that write parts of reference pages while the site is built, so that none is stale."""

import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import FunctionType
from typing import Any

from pydantic import BaseModel

ROOT = Path(__file__).parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

POSITIONS = ("", ".0", ".NAME")  # how a key names one of many


def define_env(env: Any) -> None:
    """Register the macros of this module; the site generator calls it."""
    env.macro(keys)
    env.macro(manual)
    env.macro(public)


def manual(*command: str) -> str:
    """Return the `--help` of a command as a code block, without the keys of recipes and spaces."""
    answer = subprocess.run(
        [sys.executable, *command, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    text = answer.stdout.partition("\nkeys of a recipe:")[0]
    return f"```text\n{text.partition(chr(10) + 'keys of SPACE')[0].rstrip()}\n```"


def keys(place: str) -> str:
    """Return tables of all keys of a configuration class, `module:Class`, and of its parts."""
    module, _, name = place.partition(":")
    schema: type[BaseModel] = getattr(import_module(module), name)
    return "\n".join(_sections(schema, "", set()))


def public(module: str) -> str:
    """Return mkdocstrings' blocks of the classes and functions in a module's `__all__`."""
    found = [getattr(import_module(module), name) for name in import_module(module).__all__]
    documented = [each for each in found if isinstance(each, type | FunctionType)]
    return "\n".join(f"::: {each.__module__}.{each.__qualname__}\n" for each in documented)


def _sections(model: type[BaseModel], path: str, seen: set[type[BaseModel]]) -> Iterator[str]:
    from xmodal.components.component import models_of

    seen.add(model)
    yield from _table(model, path)
    for name, field in model.model_fields.items():
        for part in models_of(field.annotation):
            if part not in seen:
                yield from _sections(part, _join(path, _of_part(model, name)), seen)


def _table(model: type[BaseModel], path: str) -> Iterator[str]:
    """Yield the heading of a class, what it is, and the table of its own keys."""
    from xmodal.components.config import tag_of
    from xmodal.components.description import describe

    kind = tag_of(model)
    if path:
        title = f"{path}: {{kind: {kind}}}" if kind else path
        yield f"\n### `{title}` {{#{_anchor(model)}}}\n"
        yield (model.__doc__ or "").split("\n\n")[0].replace("\n", " ") + "\n"
    own = {f"{name}{end}" for name in model.model_fields if name != "kind" for end in POSITIONS}
    rows = [row for row in dict.fromkeys(describe(model)) if row[0] in own]
    if rows:
        yield "| key | default | meaning |\n| --- | --- | --- |"
    for key, default, meaning in rows:
        shown = f"[{default}](#{default})" if _is_part(model, key, default) else f"`{default}`"
        yield f"| `{key}` | {shown} | {_cell(meaning)} |"


def _is_part(model: type[BaseModel], key: str, name: str) -> bool:
    from xmodal.components.component import models_of

    field = model.model_fields[key.partition(".")[0]]
    return name in map(_anchor, models_of(field.annotation))


def _of_part(model: type[BaseModel], name: str) -> str:
    """Return the key of a part as `describe` writes it: with a position where there are many."""
    from xmodal.components.description import describe

    found = [key for key, *_ in describe(model) if key in {f"{name}.0", f"{name}.NAME"}]
    return found[0] if found else name


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _anchor(model: type[BaseModel]) -> str:
    return model.__name__.removesuffix("Config")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
