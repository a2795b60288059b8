"""Methods of image-text matching beside each other and beside CCA, on the same frozen features.

    python -m benchmarks.matching [--set NAME …] [--method NAME …] [--seeds 3]
        [--override KEY=VALUE …] [--quick] [--json FILE]

Shards are expected in data/, as docs/results.md tells to build them. Each row is a recipe of
benchmarks/recipes trained with seeds 0, 1, …; it is also one command:

    python launch/train.py benchmarks/recipes/mite.yaml data.train=URL data.val=URL training.seed=0

Runs lie in runs/matching/SET/METHOD-SEED; those that are there already are not trained again.
Printed: the mean over seeds and their standard deviation; recalls, and on sets with classes mean
average precision, in percent.
"""

import argparse
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from benchmarks.beside import console, row
from benchmarks.cca import fit_heads
from benchmarks.measure import hardware
from xmodal.data.manifest import read_manifest
from xmodal.distributed.environment import Environment, start
from xmodal.errors import run_command
from xmodal.evaluation.retrieval import evaluate_retrieval, evaluation_set
from xmodal.methods.build import build_method, load_tokenizer, make_tokenizer
from xmodal.methods.clip import Clip
from xmodal.recipe import Recipe, read_recipe
from xmodal.training.features import cached_features
from xmodal.training.run import Run
from xmodal.training.session import Session

RECIPES = Path(__file__).parent / "recipes"
RUNS = Path("runs/matching")


class DataSet(NamedTuple):
    """A data set: its shards, how it is measured, and what differs in recipes for it."""

    train: str
    test: str
    protocols: Sequence[str]
    changes: Sequence[str] = ()
    from_scratch: Sequence[str] = ()  # sides whose encoders are trained too


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
        ["data.batch_size=128"],
    ),
    "flickr8k-gru": DataSet(
        "data/flickr8k/train",
        "data/flickr8k/val",
        ["all-captions", "gap"],
        ["method.text={kind: gru, word: 300, width: 512}"],
        ["text"],
    ),
    "flickr8k-end-to-end": DataSet(
        "data/flickr8k/train",
        "data/flickr8k/val",
        ["all-captions", "gap"],
        [
            "method.text={kind: gru, word: 300, width: 512}",
            "method.image={kind: timm, name: mobilenetv3_small_050, size: 96}",
            "data.batch_size=128",
            "data.feature_cache=null",
            "data.crop=[0.5, 1.0]",
            "data.flip=true",
        ],
        ["image", "text"],
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
Metrics = dict[str, float]


def main() -> None:
    given = read_arguments()
    environment = start()
    rows: list[dict[str, Any]] = []
    for name in given.set:
        found: dict[str, list[Metrics]] = {}
        for method in given.method:
            # What needs classes is left out where there are none; CCA draws no lots.
            if method == "uncsm" and "class" not in SETS[name].protocols:
                continue
            for seed in range(1 if method == "cca" else given.seeds):
                for stage, metrics in measure(name, method, seed, given, environment).items():
                    found.setdefault(stage, []).append(metrics)
        print(f"\n{name}\n", *table(found), sep="\n", flush=True)
        rows += list(_rows(name, found))
    if given.json:
        Path(given.json).write_text(json.dumps(rows, indent=1) + "\n")


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--method", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3, help="default: 3")
    parser.add_argument("--override", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--runs", type=Path, default=RUNS, help=f"default: {RUNS}")
    parser.add_argument(
        "--quick", action="store_true", help="Tux Paint, one seed, 20 steps a stage"
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures there as well")
    given = parser.parse_args()
    if given.quick:
        given.set, given.seeds, given.runs = ["tuxpaint"], 1, RUNS.with_name("matching-quick")
        shutil.rmtree(given.runs, ignore_errors=True)
    return given


def measure(
    name: str, method: str, seed: int, given: argparse.Namespace, environment: Environment
) -> dict[str, Metrics]:
    """Return what a method reaches on a data set, by what the table calls it."""
    recipe = recipe_of(name, method, seed, given)
    if method == "cca":
        return {"CCA": _of_cca(recipe, environment)}
    run = Run(recipe.run)
    run.check(recipe)
    if not run.results.is_file():
        Session(recipe, environment).train()
    # UNCSM is measured at the end of each of its stages.
    of_stages = {line["stage"]: line for line in run.history() if "loss" not in line}
    if method == "uncsm":
        return {f"uncsm, {stage}": metrics for stage, metrics in of_stages.items()}
    return {method: list(of_stages.values())[-1]}


def recipe_of(name: str, method: str, seed: int, given: argparse.Namespace) -> Recipe:
    """Return the recipe of a row."""
    data = SETS[name]
    file = RECIPES / f"{'clip' if method == 'cca' else method}.yaml"
    overrides = [
        f"data.train={data.train!r}",
        f"data.val={data.test!r}",
        f"evaluation.protocols={list(data.protocols)}",
        f"training.seed={seed}",
        "training.log_every=50",
        f"run={given.runs}/{name}/{method}-{seed}",
        *data.changes,
        *given.override,
    ]
    for number, stage in enumerate(read_recipe(str(file), [], RECIPES).stages):
        if given.quick:
            overrides.append(f"stages.{number}.length=20 steps")
        # `image.head` becomes `image`: all of the tower.
        sides = {name: name.split(".")[0] for name in stage.train}
        train = [side if side in data.from_scratch else name for name, side in sides.items()]
        overrides.append(f"stages.{number}.train={list(dict.fromkeys(train))}")
    return read_recipe(str(file), overrides, RECIPES)


def _of_cca(recipe: Recipe, environment: Environment) -> Metrics:
    shards = [read_manifest(url) for url in (recipe.data.train[0].url, recipe.data.val or "")]
    run = Run(recipe.run)
    run.create(recipe)
    make_tokenizer(recipe.method, shards[:1], run.tokenizer)
    tokenizer = load_tokenizer(recipe.method, run.tokenizer)
    method = build_method(recipe, tokenizer, environment.device)
    assert isinstance(method, Clip)
    size = recipe.method.image.size
    train, test = (
        cached_features(
            method,
            evaluation_set(one, size, tokenizer),
            one,
            recipe,
            device=environment.device,
            say=console.print,
        )
        for one in shards
    )
    console.print(f"CCA on {recipe.data.train[0].url}: {fit_heads(method, train)}", markup=False)
    return evaluate_retrieval(
        method,
        evaluation_set(test, size, tokenizer),
        shards[1].relevance,
        recipe.evaluation,
        device=environment.device,
        workers=0,
        max_bad_share=recipe.data.max_bad_share,
    ).metrics


def table(found: Mapping[str, Sequence[Metrics]]) -> Iterator[str]:
    """Yield a data set's table in Markdown: means, each with its spread over seeds."""
    columns = {
        head: column
        for head, column in COLUMNS.items()
        if any(_figures(one, column) for one in found.values())
    }
    yield f"| {' | '.join(['', *map(str.strip, columns)])} |"
    yield f"|{' --- |' * (len(columns) + 1)}"
    for method, seeds in found.items():
        cells = [_shown(_figures(seeds, column)) for column in columns.values()]
        yield f"| {' | '.join([method, *cells])} |"


def _figures(seeds: Sequence[Metrics], column: str) -> list[float]:
    """Return a metric of each seed, by whatever protocol ranks captions."""
    return [
        next(value for name, value in one.items() if _is(name, column))
        for one in seeds
        if any(_is(name, column) for name in one)
    ]


def _is(name: str, column: str) -> bool:
    return name == column or name in (f"relevance/{column}", f"all-captions/{column}")


def _shown(figures: Sequence[float]) -> str:
    if not figures:
        return ""
    digits = 1 if mean(figures) >= 2 else 2
    spread = f" ± {stdev(figures):.{digits}f}" if len(figures) > 1 else ""
    return f"{mean(figures):.{digits}f}{spread}"


def _rows(name: str, found: Mapping[str, Sequence[Metrics]]) -> Iterator[dict[str, Any]]:
    """Yield each method's rsum beside that of CCA."""
    if "CCA" not in found:
        return
    baseline = mean(_figures(found["CCA"], "rsum"))
    for method, seeds in found.items():
        if method != "CCA":
            rsum = mean(_figures(seeds, "rsum"))
            yield row(f"matching/{name}/{method}/rsum", rsum, baseline, "", hardware())


if __name__ == "__main__":
    run_command(main)
