"""Visual similarity: SimSiam and PTF-SimCM from scratch, beside backbones as they are.

    python -m benchmarks.visual [--set NAME …] [--method NAME …] [--seeds 3]
        [--override KEY=VALUE …] [--quick] [--json FILE]

docs/results.md has the commands that build the shards in data/. Each row is a recipe of
benchmarks/recipes trained with seeds 0, 1, …; it is also one command:

    python launch/train.py benchmarks/recipes/ptf_simcm.yaml data.train=URL data.val=URL
        training.seed=0

Runs lie in runs/visual/SET/METHOD-SEED; existing ones are not trained again.
Printed: the mean over seeds and their standard deviation, in percent; of PTF-SimCM for images alone
and, in the columns `with text`, for images with their captions.
"""

import argparse
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.trained import Metrics, compare, measure_untrained, read_arguments, recipe_of, train
from xmodal.assembly.recipe import Recipe
from xmodal.distributed.environment import Environment, start
from xmodal.errors import run_command


class DataSet(NamedTuple):
    """A data set: shards to train on and shards to measure."""

    train: str
    test: str


SETS = {
    "fashion": DataSet(
        "data/fashion/train/train-{000000,000004,000008,000012,000016,000020,000024,000028,000032}.tar",
        "data/fashion/test/test-{000000,000002}.tar",
    ),
    "emoji": DataSet("data/emoji/styles_train", "data/emoji/styles_test"),
    "openclipart": DataSet("data/openclipart/train", "data/openclipart/test"),
}
# Each method's recipe and overrides.
METHODS: dict[str, tuple[str, Sequence[str]]] = {
    "pretrained": (
        "simsiam",
        ["method.image={kind: timm, name: tf_efficientnet_lite0, weights: package, size: 64}"],
    ),
    "random": ("simsiam", []),
    "simsiam": ("simsiam", []),
    "ptf_simcm": ("ptf_simcm", []),
}
UNTRAINED = ("pretrained", "random")
PARTS = {
    "R@1": "recall@1",
    "R@2": "recall@2",
    "R@4": "recall@4",
    "R@8": "recall@8",
    "mAP@R": "map@r",
    "NMI": "nmi",
    "of chance": "nmi_chance",
    "k-NN": "knn_accuracy",
}
COLUMNS = {head: f"visual/{part}" for head, part in PARTS.items()} | {
    f"with text {head}": f"visual-with-text/{part}" for head, part in PARTS.items()
}


def main() -> None:
    given = read_arguments("visual", __doc__, SETS, METHODS, quick="openclipart")
    environment = start()
    compare(
        "visual",
        given,
        lambda name, method, seed: measure(name, method, seed, given, environment),
        COLUMNS,
        once="pretrained",
        column="visual/map@r",
        baseline="random",
    )


def measure(
    name: str, method: str, seed: int, given: argparse.Namespace, environment: Environment
) -> dict[str, Metrics]:
    """Return the metrics of a method on a data set, by its name."""
    recipe = recipe_of_row(name, method, seed, given)
    if method in UNTRAINED:
        return {method: measure_untrained(recipe, environment)}
    return {method: list(train(recipe, environment).values())[-1]}


def recipe_of_row(name: str, method: str, seed: int, given: argparse.Namespace) -> Recipe:
    """Return the recipe of a row."""
    data, (file, changes) = SETS[name], METHODS[method]
    overrides = [
        f"data.train={data.train!r}",
        f"data.val={data.test!r}",
        f"training.seed={seed}",
        *changes,
    ]
    return recipe_of(file, overrides, given.runs / name / f"{method}-{seed}", given)


if __name__ == "__main__":
    run_command(main)
