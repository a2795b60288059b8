"""The recipe: one YAML file and `key=value` overrides that describe a run completely.

Every component owns its part (`xmodal/*/config.py`); this module puts the parts together, reads
them, and turns each mistake into one line that names the key, the allowed values and the nearest
name. It imports no torch, so that help and errors come at once.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, field_validator, model_validator

from xmodal.components.config import Config, Mark
from xmodal.components.overrides import parse_override, set_text, set_value
from xmodal.components.plugins import import_plugins, plugin_folders, require_plugins
from xmodal.components.validation import check_path, nearest, validate
from xmodal.data.config import DataConfig
from xmodal.errors import UserError
from xmodal.evaluation.config import EvaluationConfig
from xmodal.methods.config import MethodConfig
from xmodal.objectives.config import ObjectiveConfig
from xmodal.runs.recipe_file import read_recipe_file
from xmodal.training.config import CheckpointConfig, StageConfig, TrainingConfig
from xmodal.training.timeline import Timeline
from xmodal.yaml_text import read_yaml

# Keys of overrides in the order in which they are read.
_PLUGINS = re.compile(r"plugins")
_OTHERS = re.compile(r"(?!plugins|method\.)|method\.(kind|pretrained)")
_METHOD = re.compile(r"method\.(?!kind|pretrained)")

RECIPES = Path(__file__).parents[1] / "recipes"


class Recipe(Config):
    """The complete description of a run."""

    run: Annotated[str, Mark.FREE, Mark.LASTING] = Field(
        min_length=1, description="folder of the run; default: runs/ and the recipe's name"
    )
    data: DataConfig = Field(description="shards, order, batches")
    method: MethodConfig = Field(description="encoders and losses")
    stages: list[StageConfig] = Field(
        [StageConfig()], min_length=1, description="stages of training, in order"
    )
    training: TrainingConfig = Field(
        TrainingConfig(), description="settings of the engine and of the run"
    )
    evaluation: Annotated[EvaluationConfig, Mark.FREE] = Field(
        EvaluationConfig(), description="evaluation of data.val"
    )
    checkpoints: CheckpointConfig = Field(
        CheckpointConfig(), description="checkpoints to write and keep"
    )
    plugins: Annotated[list[str], Mark.FREE] = Field(
        [], description="modules that register components (docs/plugins.md)"
    )

    @field_validator("plugins", mode="before")
    @classmethod
    def _one_or_many(cls, plugins: Any) -> Any:
        return [plugins] if isinstance(plugins, str) else plugins

    @model_validator(mode="before")
    @classmethod
    def _have_plugins(cls, values: Any) -> Any:
        """Register the plugins of the recipe before the rest is read."""
        if isinstance(values, dict):
            require_plugins(_plugins_of(values))
        return values

    @model_validator(mode="after")
    def _takes_negatives(self) -> Self:
        sides = self.data.negatives.sides if self.data.negatives else []
        if refused := [side for side in sides if side not in self.method.takes_extra]:
            objective = getattr(self.method, "objective", None)
            own = f" with {objective.in_words}" if objective else ""
            raise ValueError(
                f"data.negatives: {self.method.kind}{own} takes no extra {refused[0]}; remove "
                "them, or use kind vsepp, or clip with one of the objectives "
                f"{ObjectiveConfig.kinds_that('takes_extra')} (texts alone of info_nce with "
                "direction: rows and mutual_information with estimator: info_nce, images alone of "
                "direction: columns)"
            )
        if not sides and getattr(self.method, "extra_negatives", "all") == "own":
            raise ValueError(
                "method.extra_negatives: there are none; write data.negatives, or remove it"
            )
        pretrained = getattr(self.method, "pretrained", None)
        if "texts" in sides and not pretrained and self.method.text.reads_features:
            raise ValueError(
                "data.negatives: method.text reads features, and extra texts need an encoder; "
                "remove them, or choose another method.text.kind"
            )
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle values, not classes, so that a process imports plugins before it reads them."""
        return _unpickled, (self.model_dump(mode="json", exclude_unset=True), plugin_folders())

    def timeline(self, epoch_samples: int) -> Timeline:
        """Return the recipe's steps over `epoch_samples` samples an epoch."""
        return Timeline(
            self.stages,
            batch_size=self.data.batch_size,
            epoch_samples=epoch_samples,
            evaluate_every=self.evaluation.every,
            checkpoint_every=self.checkpoints.every,
        )


def read_recipe(name: str, overrides: Sequence[str], folder: Path = RECIPES) -> Recipe:
    """Read a recipe by name (a YAML file of `folder`) or path and apply `key=value` overrides.

    Raises `UserError` for a recipe that is not there, is not YAML, or is wrong in a key or value.
    """
    path = _find(name, folder)
    values = read_yaml(path)
    values.setdefault("run", f"runs/{path.stem}")
    given = [parse_override(override) for override in overrides]
    # Where the package lies says nothing to whoever has to mend an override.
    source = path.name if path.parent == RECIPES else str(path)
    # Keys may be of components that plugins register, those of a method of what it begins with.
    for first in (_PLUGINS, _OTHERS, _METHOD):
        for key, text in [one for one in given if first.match(one[0])]:
            set_text(Recipe, values, key, text)
        import_plugins(_plugins_of(values))
        if first is _OTHERS:
            values = _described(values, [key for key, _ in given], source)
    return validate(Recipe, values, source)


def _described(values: dict[str, Any], keys: Sequence[str], source: str) -> dict[str, Any]:
    """Return the values of a recipe with what its pretrained model describes, if it has one.

    Mistakes of other parts, and unknown ones of the method's own and the overrides' `keys`, are
    reported first: a hub may be asked for the model.
    """
    method = values.get("method")
    if not (isinstance(method, dict) and method.get("pretrained")):
        return values
    features = {"kind": "features", "features": 1}
    towers = {"kind": method.get("kind"), "image": features, "text": features}
    validate(Recipe, values | {"method": towers | {"pretrained": method["pretrained"]}}, source)
    for key in [*(f"method.{name}" for name in method), *keys]:
        check_path(Recipe, values, key, source)
    from xmodal.assembly.pretrained import describe  # which imports torch

    return describe(values)


def import_plugins_of(words: Sequence[str], folder: Path = RECIPES) -> None:
    """Import the plugins that a command line names, by its recipe or by overrides, so that help
    lists what they register.
    """
    named = (_path(word, folder) for word in words if "=" not in word)
    recipe = next((path for path in named if path.is_file()), None)
    values = {"plugins": _plugins_of(read_yaml(recipe)) if recipe else []}
    for word in words:
        if word.startswith("plugins") and "=" in word:
            set_text(Recipe, values, *parse_override(word))
    import_plugins(_plugins_of(values))


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
    return read_recipe_file(run, Recipe)


def _plugins_of(values: Mapping[str, Any]) -> list[str]:
    """Return the plugins that the values of a recipe name; validation reports mistakes later."""
    plugins = values.get("plugins")
    named = plugins if isinstance(plugins, list) else [plugins]
    return [name for name in named if isinstance(name, str)]


def _unpickled(values: dict[str, Any], folders: Sequence[str]) -> Recipe:
    """Return a recipe of another process, which found its plugins in some folders."""
    sys.path += [folder for folder in folders if folder not in sys.path]
    import_plugins(_plugins_of(values))
    return Recipe.model_validate(values)


def _path(name: str, folder: Path) -> Path:
    """Return the file of a recipe, which may not exist."""
    path = Path(name)
    is_path = path.suffix in {".yaml", ".yml"} or path.parent != Path()
    return path if is_path else folder / f"{name}.yaml"


def _find(name: str, folder: Path) -> Path:
    path = _path(name, folder)
    if path.is_file():
        return path
    if path == Path(name):
        raise UserError(
            f"there is no recipe file {name}; name a YAML file, or a recipe: {_names(folder)}"
        )
    near = nearest(name, [file.stem for file in folder.glob("*.yaml")])
    raise UserError(f"there is no recipe {name}{near}; known: {_names(folder)}")


def _names(folder: Path) -> str:
    return ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
