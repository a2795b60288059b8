"""Resolved recipe of a run folder: its `recipe.yaml`.

This module does not depend on the fields of a recipe, which is any configuration.
"""

import warnings
from pathlib import Path
from typing import TypeVar

import yaml
from pydantic import BaseModel

from xmodal.components.differences import changes
from xmodal.components.plugins import MissingPluginError
from xmodal.components.validation import validate
from xmodal.errors import RenamedKeyWarning, UserError
from xmodal.yaml_text import read_yaml

R = TypeVar("R", bound=BaseModel)

RECIPE = "recipe.yaml"
NAMED_CHANGES = 8  # keys that a message names of those that differ


def read_recipe_file(run: str | Path, model: type[R]) -> R:
    """Read the resolved recipe of a run folder.

    Raises `UserError` if it is missing or damaged.
    """
    path = Path(run) / RECIPE
    if not path.is_file():
        fault = f"it has no {RECIPE}; train one first"
        if not Path(run).is_dir():
            fault = "it is a file" if Path(run).exists() else "there is no such folder"
            if not Path(run).exists() and str(run).count("/") == 1 and str(run)[0] not in "./~":
                fault += f"; of a model at the hub, write hf-hub:{run}"
        raise UserError(f"{run} is no run folder: {fault}")
    try:
        with warnings.catch_warnings():
            # Runs of before have keys by the names of then.
            warnings.simplefilter("ignore", RenamedKeyWarning)
            return validate(model, read_yaml(path), str(path))
    except MissingPluginError as error:
        raise MissingPluginError(f"{path} {error}") from None
    except UserError as error:
        raise UserError(f"{error}; restore the file, or name another run") from None


def dump_recipe(recipe: BaseModel) -> str:
    """Return the resolved recipe as YAML, for `read_recipe`."""
    return yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def check_same(begun: BaseModel, recipe: BaseModel, place: str) -> None:
    """Raise `UserError` if a folder, named as `key=value`, belongs to another recipe."""
    changed = changes(begun, recipe)
    if changed:
        more = len(changed) - NAMED_CHANGES
        changed = changed[:NAMED_CHANGES] + ([f"{more} more"] if more > 0 else [])
        raise UserError(
            f"{place} was begun with another recipe ({'; '.join(changed)}); name another "
            f"{place.partition('=')[0]}, or take these changes back to resume"
        )
