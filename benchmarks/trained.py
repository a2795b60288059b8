"""Recipes that benchmarks of methods train once a seed, and tables of their means.

Runs lie in runs/BENCHMARK/SET/METHOD-SEED; existing ones are not trained again.
"""

import argparse
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from benchmarks.beside import console, row
from benchmarks.measure import hardware
from xmodal.assembly.data import Shards
from xmodal.assembly.evaluation import measure_shards
from xmodal.assembly.recipe import Recipe, read_recipe
from xmodal.assembly.session import Session
from xmodal.distributed.environment import Environment
from xmodal.methods.method import Method
from xmodal.runs.progress import full_name
from xmodal.runs.run import Run

RECIPES = Path(__file__).parent / "recipes"
Metrics = dict[str, float]
Found = dict[str, list[Metrics]]  # the metrics of each seed, by their row of the table


def read_arguments(
    name: str, description: str | None, sets: Iterable[str], methods: Iterable[str], quick: str
) -> argparse.Namespace:
    """Return the options of the command line of benchmark `name`.

    `--quick` is the set `quick` alone, one seed, 20 steps a stage, trained anew.
    """
    sets, methods, runs = list(sets), list(methods), Path("runs") / name
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", nargs="+", choices=sets, default=sets)
    parser.add_argument("--method", nargs="+", choices=methods, default=methods)
    parser.add_argument("--seeds", type=int, default=3, help="default: 3")
    parser.add_argument("--override", nargs="+", default=[], metavar="KEY=VALUE")
    parser.add_argument("--runs", type=Path, default=runs, help=f"default: {runs}")
    parser.add_argument("--quick", action="store_true", help=f"{quick}, one seed, 20 steps a stage")
    parser.add_argument("--json", metavar="FILE", help="write the figures there as well")
    given = parser.parse_args()
    if given.quick:
        given.set, given.seeds = [quick], 1
        given.runs = given.runs.with_name(f"{given.runs.name}-quick")
        shutil.rmtree(given.runs, ignore_errors=True)
    return given


def recipe_of(file: str, overrides: Sequence[str], run: Path, given: argparse.Namespace) -> Recipe:
    """Return a recipe of benchmarks/recipes with `overrides` and those of the command line."""
    path = str(RECIPES / f"{file}.yaml")
    changes = [*overrides, f"run={run}", "training.log_every=50", *given.override]
    if given.quick:
        stages = range(len(read_recipe(path, [], RECIPES).stages))
        changes += [f"stages.{number}.length=20 steps" for number in stages]
    return read_recipe(path, changes, RECIPES)


def train(recipe: Recipe, environment: Environment) -> dict[str, Metrics]:
    """Train a recipe unless its run is finished; return the metrics at the end of each stage."""
    run = Run(recipe.run)
    run.check(recipe)
    if not run.results.is_file():
        Session(recipe, environment).train()
    return {line["stage"]: line for line in run.history() if "loss" not in line}


def measure_untrained(
    recipe: Recipe,
    environment: Environment,
    fit: Callable[[Method, Shards], str] | None = None,
) -> Metrics:
    """Return the metrics of a recipe's method with its first weights.

    `fit` may set some: it takes the method and the shards, or their cached features, and returns a
    line to print.
    """
    session = Session(recipe, environment)
    read = session.prepare(_print)
    if fit:
        _print(fit(session.method, read))
    method = session.method.to(environment.device)
    return measure_shards(
        recipe, method, session.shards, read, session.tokenizer, environment.device
    ).metrics


def compare(
    name: str,
    given: argparse.Namespace,
    measure: Callable[[str, str, int], dict[str, Metrics]],
    columns: Mapping[str, str],
    *,
    once: str,
    column: str,
    baseline: str,
) -> None:
    """Measure methods of benchmark `name` on each set, print a table a set, and write the rows.

    `measure` takes a set, a method and a seed, and returns metrics by their row of the table; none
    if the method does not fit the set. The method `once` is deterministic. Rows have the metric
    `column` beside that of `baseline`.
    """
    written: list[dict[str, Any]] = []
    for data in given.set:
        found: Found = {}
        for method in given.method:
            for seed in range(1 if method == once else given.seeds):
                for label, metrics in measure(data, method, seed).items():
                    found.setdefault(label, []).append(metrics)
        print(f"\n{data}\n", *table(found, columns), sep="\n", flush=True)
        written += rows(f"{name}/{data}", found, column, baseline)
    if given.json:
        Path(given.json).write_text(json.dumps(written, indent=1) + "\n")


def table(found: Mapping[str, Sequence[Metrics]], columns: Mapping[str, str]) -> Iterator[str]:
    """Yield a set's table in Markdown: means of metrics, each with its spread over seeds.

    `columns` are metrics, with or without their protocol, by their heads; those that no
    method has are skipped.
    """
    shown = {
        head: column
        for head, column in columns.items()
        if any(figures(one, column) for one in found.values())
    }
    yield f"| {' | '.join(['', *map(str.strip, shown)])} |"
    yield f"|{' --- |' * (len(shown) + 1)}"
    for method, seeds in found.items():
        cells = [_cell(figures(seeds, column)) for column in shown.values()]
        yield f"| {' | '.join([method, *cells])} |"


def figures(seeds: Sequence[Metrics], column: str) -> list[float]:
    """Return a metric, with or without its protocol, of each seed that has it."""
    names = [full_name(column, one) for one in seeds]
    return [one[name] for one, name in zip(seeds, names, strict=True) if name]


def rows(prefix: str, found: Found, column: str, baseline: str) -> list[dict[str, Any]]:
    """Return each method's mean of a metric beside that of the baseline, where that is there."""
    if baseline not in found:
        return []
    peer = mean(figures(found[baseline], column))
    return [
        row(f"{prefix}/{method}/{column}", mean(figures(seeds, column)), peer, "", hardware())
        for method, seeds in found.items()
        if method != baseline
    ]


def _print(line: str) -> None:
    console.print(line, markup=False)


def _cell(values: Sequence[float]) -> str:
    if not values:
        return ""
    digits = 1 if mean(values) >= 2 else 2
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{spread}"
