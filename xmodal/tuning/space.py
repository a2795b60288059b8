"""Search spaces, translated for Optuna and for Ray's population-based training.

Imports neither torch nor Ray nor Optuna before they are needed: mistakes are reported at once.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xmodal.assembly.recipe import Recipe, with_values
from xmodal.components.config import Mark
from xmodal.components.differences import is_marked, marked
from xmodal.components.validation import nearest, validate
from xmodal.errors import UserError
from xmodal.tuning.config import PopulationConfig, SpaceConfig, ValuesConfig
from xmodal.yaml_text import read_yaml

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Values = Mapping[str, Any]  # by the recipe's keys


SPACES = Path(__file__).parents[1] / "spaces"


def find_space(name: str) -> Path:
    """Return the file of a space: a path, or the name of one that xmodal brings."""
    known = SPACES / f"{name}.yaml"
    return known if known.is_file() else Path(name)


def read_space(path: Path, recipe: Recipe) -> SpaceConfig:
    """Read a SPACE.yaml for a recipe.

    Raises `UserError` for a file that is no space, and for keys and values that the recipe does not
    accept.
    """
    if not path.is_file():
        known = sorted(file.stem for file in SPACES.glob("*.yaml"))
        near = nearest(str(path), known)
        raise UserError(
            f"there is no space {path}{near}; name a YAML file, or one of: {', '.join(known)}"
        )
    space = validate(SpaceConfig, read_yaml(path), str(path))
    for key, values in space.space.items():
        for value in values.examples:
            with_values(recipe, {key: value}, f"{path}: space.{key}")
        is_population = isinstance(space.scheduler, PopulationConfig)
        if is_population and not is_marked(recipe, key, Mark.MUTABLE):
            can = marked(Recipe, Mark.MUTABLE)
            raise UserError(
                f"{path}: space.{key} cannot change while weights and optimiser continue, as they "
                f"do in population-based training; keys that can: {', '.join(can)}"
            )
    return space


def values_of(recipe: Recipe, space: SpaceConfig) -> dict[str, Any]:
    """Return the values of a recipe at the keys of a space; keys that it lacks are skipped."""
    values: dict[str, Any] = {}
    for key in space.space:
        node: Any = recipe.model_dump(mode="json")
        for part in key.split("."):
            if isinstance(node, list) and part.isdigit() and int(part) < len(node):
                node = node[int(part)]
            else:
                node = node.get(part) if isinstance(node, dict) else None
        if node is not None or None in (space.space[key].choice or ()):
            values[key] = node
    return values


def distributions(space: SpaceConfig) -> dict[str, "BaseDistribution"]:
    """Return the distributions for Optuna; a choice is drawn by its index."""
    return {key: _distribution(values) for key, values in space.space.items()}


def _distribution(values: ValuesConfig) -> "BaseDistribution":
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    if values.choice is not None:
        return CategoricalDistribution(range(len(values.choice)))
    if values.integers is not None:
        return IntDistribution(*values.integers)
    assert values.range is not None
    return FloatDistribution(*values.range, log=values.log_uniform is not None)


def from_optuna(parameters: Values, space: SpaceConfig) -> dict[str, Any]:
    """Return the values that Optuna's parameters stand for."""
    return {
        key: choice[parameters[key]] if (choice := values.choice) else parameters[key]
        for key, values in space.space.items()
    }


def to_optuna(values: Values, space: SpaceConfig) -> dict[str, Any] | None:
    """Return the parameters that stand for values in Optuna; None where they are not of the space,
    as those of the recipe itself may be.
    """
    parameters: dict[str, Any] = {}
    for key, drawn in space.space.items():
        value = values.get(key)
        if drawn.choice is not None and value in drawn.choice:
            parameters[key] = drawn.choice.index(value)
        elif drawn.range is not None and isinstance(value, int | float):
            if not drawn.range[0] <= value <= drawn.range[1]:
                return None
            parameters[key] = value
        else:
            return None
    return parameters


def mutations(space: SpaceConfig) -> dict[str, Any]:
    """Return the search space for Ray's population-based training."""
    from ray import tune

    found: dict[str, Any] = {}
    for key, values in space.space.items():
        if values.choice is not None:
            found[key] = values.choice  # a list moves to a neighbour
        elif values.integers is not None:
            low, high = values.integers
            found[key] = tune.randint(low, high + 1)
        else:
            assert values.range is not None
            found[key] = (tune.loguniform if values.log_uniform else tune.uniform)(*values.range)
    return found


def kept_within(space: SpaceConfig) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return a function that clips values to their ranges."""

    def keep(values: dict[str, Any]) -> dict[str, Any]:
        for key, drawn in space.space.items():
            if drawn.range is not None:
                low, high = drawn.range
                values[key] = min(max(values[key], low), high)
        return values

    return keep
