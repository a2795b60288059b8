"""Parts of a study: data sets, arms (recipes with overrides), columns, and what is compared."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from xmodal.assembly.data import Shards
from xmodal.assembly.recipe import Recipe
from xmodal.methods.method import Method

# Sets the weights of a method, given the shards to read; returns a line about them.
Fit = Callable[[Method, Shards], str]


@dataclass(frozen=True)
class DataSet:
    """A data set by overrides of recipes.

    Attributes:
        train: what is trained on, and what training is stopped on (`data.train`, `data.val`, …).
        test: what is measured, in place of the same keys in `train`.
        arms: names of the arms that fit it; empty: all.
        changes: overrides that depend on the recipe, which they are given with those of `train`.
    """

    train: Sequence[str]
    test: Sequence[str]
    arms: Sequence[str] = ()
    changes: Callable[[Recipe], Sequence[str]] | None = None


@dataclass(frozen=True)
class Arm:
    """A way to train: a recipe of benchmarks/recipes and its overrides.

    Attributes:
        label: its row of the table.
        recipe: name of the recipe.
        overrides: of the recipe, after those of the data set.
        measured: checkpoint that is measured on the test set: the best by `checkpoints.best`, the
            latest, or those at the ends of all stages, each a row `LABEL, STAGE`.
        fit: sets the weights in place of training.
        seeds: greatest number of seeds; 1 of what is deterministic.
        widths: numbers of the embeddings that it is measured at, each a row `LABEL, at WIDTH`;
            none: all of them.
    """

    label: str
    recipe: str
    overrides: Sequence[str] = ()
    measured: Literal["best", "latest", "stages"] = "best"
    fit: Fit | None = None
    seeds: int | None = None
    widths: Sequence[int] = ()


@dataclass(frozen=True)
class Study:
    """A study, as `python -m benchmarks.study NAME` runs it.

    Attributes:
        sets: data sets, by name; a table each.
        arms: arms, by name.
        columns: metrics by the heads of their columns, with or without their protocol; `steps` is
            the step that was measured. A metric that no arm has makes no column.
        differences: pairs of rows (one, other) whose difference, one less other, is reported.
        compared: heads of the columns in which differences are reported.
        overrides: of all arms, before all others.
        variants: names of rows of their own, by the ending of the protocols that they are measured
            by, such as `-by-distance`.
        quick: the set of `--quick`.
    """

    sets: Mapping[str, DataSet]
    arms: Mapping[str, Arm]
    columns: Mapping[str, str]
    differences: Sequence[tuple[str, str]] = ()
    compared: Sequence[str] = ()
    overrides: Sequence[str] = ()
    variants: Mapping[str, str] = field(default_factory=dict)
    quick: str = ""

    def arms_of(self, name: str) -> list[str]:
        """Return the names of the arms that fit a data set."""
        return list(self.sets[name].arms or self.arms)


def as_it_is(*_: object) -> str:
    """Leave a method's first weights as they are: random, or pretrained."""
    return "measured untrained"
