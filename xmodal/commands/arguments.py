"""Arguments of a command line that name a recipe."""

from argparse import ArgumentParser
from collections.abc import Iterator

from pydantic import BaseModel

from xmodal.assembly.recipe import RECIPES
from xmodal.components.description import describe


def add_recipe(parser: ArgumentParser) -> None:
    """Add RECIPE and key=value to a command line."""
    names = ", ".join(sorted(file.stem for file in RECIPES.glob("*.yaml")))
    parser.add_argument("recipe", metavar="RECIPE", help=f"a path, or one of {names}")
    parser.add_argument(
        "overrides", metavar="key=value", nargs="*", default=[], help="keys to override"
    )


def key_lines(model: type[BaseModel]) -> Iterator[str]:
    """Yield the lines of `--help` about each key of a configuration, with its default."""
    # Keys that several kinds have in common are listed once.
    for key, default, meaning in dict.fromkeys(describe(model)):
        yield f"  {key} ({default})\n      {meaning}"
