"""Composed retrieval: TIRG, mutual information on it, their baselines, and ridge regression.

    python -m benchmarks.composed [--set NAME …] [--method NAME …] [--seeds 3]
        [--override KEY=VALUE …] [--quick] [--json FILE]

All on the same frozen features. Shards are expected in data/, as docs/results.md tells to build
them. Each row is a recipe of benchmarks/recipes trained with seeds 0, 1, …; it is also one command:

    python launch/train.py benchmarks/recipes/tirg.yaml data.train=URL data.val=URL
        data.gallery=URL method.fusion=sum training.seed=0

Runs lie in runs/composed/SET/METHOD-SEED; existing ones are not trained again.
Printed: the mean over seeds and their standard deviation, in percent.
"""

import argparse
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.ridge import fit_ridge
from benchmarks.trained import Metrics, compare, measure_untrained, read_arguments, recipe_of, train
from xmodal.assembly.recipe import Recipe
from xmodal.distributed.environment import Environment, start
from xmodal.errors import run_command


class DataSet(NamedTuple):
    """A data set: queries to train on, queries to measure, and the gallery of the latter."""

    train: str
    test: str
    gallery: str
    steps: int = 200


SETS = {
    "fashion": DataSet(
        "data/fashion/composed_train",
        "data/fashion/composed_test",
        "data/fashion/composed_test_gallery",
    ),
    "emoji": DataSet(
        "data/emoji/composed_train",
        "data/emoji/composed_test",
        "data/emoji/composed_test_gallery",
        steps=100,
    ),
    # 4,000 of its 20,000 queries.
    "scenes": DataSet(
        "data/scenes/composed_train/composed_train-{000000..000003}.tar",
        "data/scenes/composed_val",
        "data/scenes/composed_gallery",
        steps=100,
    ),
}


def _dim(estimator: str = "jsd", *terms: str) -> Sequence[str]:
    """Return overrides of dim.yaml that maximise the information of some terms by an estimator."""
    losses = {"batch_classification": 1, **dict.fromkeys(terms, 0.1)}
    return [f"stages.0.losses={losses}", f"method.estimator={estimator}"]


# Of a fusion without parameters.
NO_PARTS = ["stages.0.train=[image.head, text.head, classification]"]
BOTH = ("text_image", "fusion_target")
# Each method's recipe and overrides.
METHODS: dict[str, tuple[str, Sequence[str]]] = {
    "ridge": ("tirg", []),
    "image": ("tirg", ["method.fusion=image", *NO_PARTS]),
    "text": ("tirg", ["method.fusion=text", *NO_PARTS]),
    "sum": ("tirg", ["method.fusion=sum", *NO_PARTS]),
    "concatenation": ("tirg", ["method.fusion=concatenation"]),
    "tirg": ("tirg", []),
    "tirg_text_image": ("dim", _dim("jsd", "text_image")),
    "tirg_fusion_target": ("dim", _dim("jsd", "fusion_target")),
    "dim_jsd": ("dim", _dim("jsd", *BOTH)),
    "dim_dv": ("dim", _dim("dv", *BOTH)),
    "dim_nwj": ("dim", _dim("nwj", *BOTH)),
    "dim_info_nce": ("dim", _dim("info_nce", *BOTH)),
}
COLUMNS = {
    "R@1": "composed/recall@1",
    "R@5": "composed/recall@5",
    "R@10": "composed/recall@10",
    "R@50": "composed/recall@50",
    "median rank": "composed/median_rank",
}


def main() -> None:
    given = read_arguments("composed", __doc__, SETS, METHODS, quick="emoji")
    environment = start()
    compare(
        "composed",
        given,
        lambda name, method, seed: measure(name, method, seed, given, environment),
        COLUMNS,
        once="ridge",
        column="composed/recall@1",
        baseline="ridge",
    )


def measure(
    name: str, method: str, seed: int, given: argparse.Namespace, environment: Environment
) -> dict[str, Metrics]:
    """Return the metrics of a method on a data set, by its name."""
    recipe = recipe_of_row(name, method, seed, given)
    if method == "ridge":
        return {method: measure_untrained(recipe, environment, fit_ridge)}
    return {method: list(train(recipe, environment).values())[-1]}


def recipe_of_row(name: str, method: str, seed: int, given: argparse.Namespace) -> Recipe:
    """Return the recipe of a row."""
    data, (file, changes) = SETS[name], METHODS[method]
    overrides = [
        f"data.train={data.train!r}",
        f"data.val={data.test!r}",
        f"data.gallery={data.gallery!r}",
        f"training.seed={seed}",
        f"stages.0.length={data.steps} steps",
        *changes,
    ]
    return recipe_of(file, overrides, given.runs / name / f"{method}-{seed}", given)


if __name__ == "__main__":
    run_command(main)
