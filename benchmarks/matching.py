"""Methods of image-text matching beside each other and beside CCA, on the same frozen features.

    python -m benchmarks.matching [--set NAME …] [--method NAME …] [--seeds 3]
        [--override KEY=VALUE …] [--quick] [--json FILE]

docs/results.md has the commands that build the shards in data/. Each row is a recipe of
benchmarks/recipes trained with seeds 0, 1, …; it is also one command:

    python launch/train.py benchmarks/recipes/mite.yaml data.train=URL data.val=URL training.seed=0

Runs lie in runs/matching/SET/METHOD-SEED; existing ones are not trained again.
Printed: the mean over seeds and their standard deviation; recalls, and on sets with classes mean
average precision, in percent.
"""

import argparse
from collections.abc import Sequence
from typing import NamedTuple

from benchmarks.cca import fit_cca
from benchmarks.trained import (
    RECIPES,
    Metrics,
    compare,
    measure_untrained,
    read_arguments,
    recipe_of,
    train,
)
from xmodal.assembly.recipe import Recipe, read_recipe
from xmodal.distributed.environment import Environment, start
from xmodal.errors import run_command


class DataSet(NamedTuple):
    """A data set: its shards, how it is measured, and what differs in recipes for it."""

    train: str
    test: str
    protocols: Sequence[str]
    changes: Sequence[str] = ()
    batch: float = 1  # of the batches that recipes have
    from_scratch: Sequence[str] = ()  # sides whose encoders are trained too
    lr: float | None = None  # of all stages, where not that of the heads alone


def _every(split: str, numbers: Sequence[int]) -> str:
    listed = ",".join(f"{number:06d}" for number in numbers)
    return f"data/fashion/{split}/{split}-{{{listed}}}.tar"


SETS = {
    "flickr8k": DataSet("data/flickr8k/train", "data/flickr8k/val", ["all-captions", "gap"]),
    "fashion": DataSet(
        _every("train", range(0, 36, 4)), _every("test", (0, 2)), ["relevance", "class", "gap"]
    ),
    "openclipart": DataSet(
        "data/openclipart/train", "data/openclipart/test", ["relevance", "class", "gap"]
    ),
    "tuxpaint": DataSet(
        "data/tuxpaint/train",
        "data/tuxpaint/test",
        ["relevance", "class", "gap"],
        batch=1 / 2,
    ),
    "flickr8k-gru": DataSet(
        "data/flickr8k/train",
        "data/flickr8k/val",
        ["all-captions", "gap"],
        ["method.text={kind: gru, word: 300, width: 512}"],
        from_scratch=["text"],
    ),
    "flickr8k-end-to-end": DataSet(
        "data/flickr8k/train",
        "data/flickr8k/val",
        ["all-captions", "gap"],
        [
            "method.text={kind: gru, word: 300, width: 256}",
            # ResNet-10, slim, so that seven methods take an hour on one core.
            "method.image={kind: timm, name: resnet10t, size: 96, "
            "options: {channels: [24, 48, 96, 192], stem_width: 8}}",
            "data.feature_cache=null",
            "data.crop=[0.5, 1.0]",
            "data.flip=true",
        ],
        batch=1 / 2,
        from_scratch=["image", "text"],
        lr=1e-3,
    ),
}
METHODS = (
    "cca",
    "vsepp_sum",
    "vsepp_hardest",
    "pvse",
    "mite_baseline",
    "mite",
    "clip",
    "siglip",
    "uncsm",
)
COLUMNS = {
    "image → text R@1": "image_to_text/recall@1",
    "R@5": "image_to_text/recall@5",
    "R@10": "image_to_text/recall@10",
    "text → image R@1": "text_to_image/recall@1",
    "R@5 ": "text_to_image/recall@5",
    "R@10 ": "text_to_image/recall@10",
    "rsum": "rsum",
    "mAP i → t": "class/image_to_text/map",
    "mAP t → i": "class/text_to_image/map",
    "mAP by distance": "class-by-distance/map",
    "gap": "gap/centroid_distance",
    "probe": "gap/probe_accuracy",
}


def main() -> None:
    given = read_arguments("matching", __doc__, SETS, METHODS, quick="tuxpaint")
    environment = start()
    compare(
        "matching",
        given,
        lambda name, method, seed: measure(name, method, seed, given, environment),
        COLUMNS,
        once="cca",
        column="rsum",
        baseline="CCA",
    )


def measure(
    name: str, method: str, seed: int, given: argparse.Namespace, environment: Environment
) -> dict[str, Metrics]:
    """Return the metrics of a method on a data set, by their row of the table."""
    # UNCSM needs classes, and CCA needs features that are never trained.
    if method == "uncsm" and "class" not in SETS[name].protocols:
        return {}
    if method == "cca" and SETS[name].from_scratch:
        return {}
    recipe = recipe_of_row(name, method, seed, given)
    if method == "cca":
        return {"CCA": measure_untrained(recipe, environment, fit_cca)}
    of_stages = train(recipe, environment)
    # UNCSM is measured at the end of each of its stages.
    if method == "uncsm":
        return {f"uncsm, {stage}": metrics for stage, metrics in of_stages.items()}
    return {method: list(of_stages.values())[-1]}


def recipe_of_row(name: str, method: str, seed: int, given: argparse.Namespace) -> Recipe:
    """Return the recipe of a row."""
    data = SETS[name]
    file = "clip" if method == "cca" else method
    plain = read_recipe(str(RECIPES / f"{file}.yaml"), [], RECIPES)
    overrides = [
        f"data.train={data.train!r}",
        f"data.val={data.test!r}",
        f"data.batch_size={int(plain.data.batch_size * data.batch)}",
        f"evaluation.protocols={list(data.protocols)}",
        f"training.seed={seed}",
        *data.changes,
    ]
    for number, stage in enumerate(plain.stages):
        # `image.head` becomes `image`: all of the tower.
        sides = {name: name.split(".")[0] for name in stage.train}
        parts = [side if side in data.from_scratch else name for name, side in sides.items()]
        overrides.append(f"stages.{number}.train={list(dict.fromkeys(parts))}")
        if data.lr:
            overrides.append(f"stages.{number}.optimizer.lr={data.lr}")
    return recipe_of(file, overrides, given.runs / name / f"{method}-{seed}", given)


if __name__ == "__main__":
    run_command(main)
