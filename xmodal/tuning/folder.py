"""Folder of a sweep: creation, and the checks before it resumes."""

import os
import shlex
import stat
from pathlib import Path

import yaml

from xmodal.assembly.recipe import Recipe, load_recipe
from xmodal.atomic_files import write_atomically
from xmodal.components.differences import changes
from xmodal.components.validation import validate
from xmodal.errors import UserError
from xmodal.runs.recipe_file import dump_recipe
from xmodal.runs.run import Run, check_path, is_bare
from xmodal.tuning.config import SpaceConfig
from xmodal.yaml_text import read_yaml

SPACE = "space.yaml"
_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def check_folder(folder: Path, recipe: Recipe, space: SpaceConfig) -> None:
    """Raise `UserError` where a folder is not one of a sweep of this recipe over this space."""
    check_path(folder, f"--sweep {folder}")
    space_file = folder / SPACE
    if folder.exists():
        _check_owner(folder)
    if space_file.is_file():
        begun = validate(SpaceConfig, read_yaml(space_file), str(space_file))
        if changed := changes(load_recipe(folder), recipe) + changes(begun, space):
            raise UserError(
                f"{folder} was begun with another recipe or space ({'; '.join(changed)}); name "
                "another folder with --sweep DIR, or undo these changes to resume"
            )
    elif folder.exists() and not is_bare(folder):
        raise UserError(f"{folder} is a folder of something else; name another with --sweep DIR")


def make_folder(folder: Path, recipe: Recipe, space: SpaceConfig) -> None:
    """Create the folder of a checked sweep."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / SPACE).is_file():  # whatever the umask is
        folder.chmod(folder.stat().st_mode & ~_OTHERS)
    write_atomically(folder / "recipe.yaml", dump_recipe(recipe))
    values = space.model_dump(mode="json", exclude_none=True)
    write_atomically(folder / SPACE, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def _check_owner(folder: Path) -> None:
    """Raise `UserError` where others than this user can write into a folder.

    Ray keeps pickles in a sweep's folder: whoever can put others in their place has them executed.
    """
    found = folder.stat()
    if found.st_uid != os.geteuid():
        raise UserError(
            f"--sweep {folder} belongs to another user, who could have Ray execute anything in it; "
            "name a folder of your own"
        )
    is_begun = (folder / SPACE).is_file()
    if is_begun and found.st_mode & _OTHERS:
        raise UserError(
            f"--sweep {folder} can be written by others, who could have Ray execute anything in "
            f"it: chmod go-w {shlex.quote(str(folder))}"
        )


def newest_run(folder: Path) -> Run:
    """Return the run folder of the trial that has saved a checkpoint last."""

    def saved(run: Run) -> float:
        newest = run.latest()
        return newest.stat().st_mtime if newest and newest.exists() else 0.0

    trials = [Run(path) for path in (folder / "trials").glob("*")]
    return max(trials, key=saved, default=Run(folder))
