"""Train a recipe.

    deepspeed launch/train.py quickstart
    deepspeed --num_accelerators 2 launch/train.py flickr8k_scratch data.train=URL data.val=URL
    python launch/train.py RECIPE run=DIR                 # one process, without a launcher

RECIPE is a name in xmodal/recipes or the path of a YAML file; key=value overrides any key of it.
The run folder (run=DIR) keeps everything; the same command goes on where it was stopped.
"""

import argparse
import sys
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

from xmodal.activity import activity, reporting
from xmodal.arguments import ArgumentParser
from xmodal.assembly.recipe import RECIPES, Recipe, read_recipe
from xmodal.components.description import describe
from xmodal.errors import own_rank, run_command
from xmodal.runs.restarts import check_restarts
from xmodal.runs.run import Run

if TYPE_CHECKING:
    from xmodal.distributed.environment import Environment


def main() -> None:
    recipe = read_arguments(sys.argv[1:])
    if recipe.checkpoints.mirror is None:  # else the newest checkpoint may not be here yet
        check_restarts(Run(recipe.run), recipe.training.restarts)
    # One rank speaks: the others would repeat it.
    with reporting(partial(print, flush=True)) if own_rank() == 0 else nullcontext():
        with activity("importing PyTorch and DeepSpeed"):
            # Only now the slow imports: help and a wrong recipe have been answered.
            from xmodal.distributed.environment import start
            from xmodal.distributed.peers import losing_peers
            from xmodal.distributed.pulse import watching_peers

        with losing_peers():
            with activity("waiting for all ranks"):
                environment = start(recipe.training.roll_call)
            with watching_peers(environment.roll, recipe.training.watchdog):
                train(recipe, environment)


def train(recipe: Recipe, environment: "Environment") -> None:
    data = recipe.data
    if data.build:
        from shards.missing import build_missing
        from xmodal.distributed.collectives import barrier

        if environment.is_main:
            build_missing(data.build, data.urls, data.s3)
        barrier()

    from xmodal.assembly.finished import own_results
    from xmodal.assembly.session import Session
    from xmodal.evaluation.report.run_report import print_results

    Session(recipe, environment).train()
    if environment.is_main:
        metrics, lines = own_results(Run(recipe.run))
        if metrics:
            print_results(metrics, recipe.run)
        for line in lines:
            print(line)


def read_arguments(arguments: list[str]) -> Recipe:
    parser = ArgumentParser(
        prog="python launch/train.py",
        usage="deepspeed launch/train.py RECIPE [key=value ...]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(["keys of a recipe:", *key_lines()]),
    )
    names = ", ".join(sorted(file.stem for file in RECIPES.glob("*.yaml")))
    parser.add_argument("recipe", metavar="RECIPE", help=f"a path, or one of {names}")
    parser.add_argument(
        "overrides", metavar="key=value", nargs="*", default=[], help="keys that differ"
    )
    # The DeepSpeed launcher gives it to every script; LOCAL_RANK says the same.
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    return read_recipe(given.recipe, given.overrides)


def key_lines() -> list[str]:
    # What several kinds of a part have in common is told once.
    told = dict.fromkeys(describe(Recipe))
    return [f"  {key} ({default})\n      {meaning}" for key, default, meaning in told]


if __name__ == "__main__":
    run_command(main)
