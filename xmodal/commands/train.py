"""Train a recipe.

    xmodal train quickstart                                          # in one process
    xmodal train RECIPE run=DIR data.train=URL data.val=URL
    torchrun --nproc-per-node 8 -m xmodal train RECIPE               # in eight, a GPU each
    deepspeed --module xmodal train RECIPE                           # on all GPUs of this machine

RECIPE is the name of a recipe or the path of a YAML file; key=value overrides any key of it. The
run folder (run=DIR) keeps everything; the same command resumes where it was stopped.
"""

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

from xmodal.activity import activity, reporting
from xmodal.arguments import ArgumentParser
from xmodal.assembly.recipe import Recipe, import_plugins_of, read_recipe
from xmodal.commands.arguments import add_recipe, key_lines
from xmodal.data.kept import check_keep_list
from xmodal.data.no_shards import check_folder
from xmodal.errors import own_rank
from xmodal.extras import require
from xmodal.runs.restarts import check_restarts
from xmodal.runs.run import Run

if TYPE_CHECKING:
    from xmodal.distributed.environment import Environment


def main(
    arguments: Sequence[str], *, prog: str = "xmodal train", description: str | None = __doc__
) -> None:
    """Train a recipe, as one rank of a job."""
    recipe = read_arguments(arguments, prog=prog, description=description)
    require("train")
    if recipe.checkpoints.mirror is None:  # else the newest checkpoint may not be here yet
        check_restarts(Run(recipe.run), recipe.training.restarts)
    check_places(recipe)
    # One rank speaks: the others would repeat it.
    with reporting(partial(print, flush=True)) if own_rank() == 0 else nullcontext():
        with activity("importing PyTorch and DeepSpeed"):
            # Only now the slow imports: help and a wrong recipe have been answered.
            from xmodal.distributed.environment import start
            from xmodal.distributed.peers import losing_peers
            from xmodal.distributed.pulse import watching_peers
            from xmodal.runs import deepspeed_adapter  # noqa: F401

        with losing_peers():
            with activity("waiting for all ranks"):
                environment = start(recipe.training.rendezvous_timeout)
            with watching_peers(environment.rendezvous, recipe.training.watchdog):
                train(recipe, environment)


def train(recipe: Recipe, environment: "Environment") -> None:
    """Train a recipe and print its last metrics."""
    build_missing_shards(recipe, environment)
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


def build_missing_shards(recipe: Recipe, environment: "Environment") -> None:
    """Build the shards of `data.build` on one rank; the others wait."""
    data = recipe.data
    if not data.build:
        return
    from shards.missing import build_missing
    from xmodal.distributed.collectives import barrier

    if environment.is_main:
        build_missing(data.build, data.urls, data.access)
    barrier()


def read_arguments(
    arguments: Sequence[str], *, prog: str = "xmodal train", description: str | None = __doc__
) -> Recipe:
    """Return the recipe that a command line asks for."""
    import_plugins_of(arguments)
    parser = ArgumentParser(
        prog=prog,
        usage=f"{prog} RECIPE [key=value ...]",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(["keys of a recipe:", *key_lines(Recipe)]),
    )
    add_recipe(parser)
    # The DeepSpeed launcher gives it to every script; LOCAL_RANK says the same.
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    recipe = read_recipe(given.recipe, given.overrides)
    check_source(recipe)
    return recipe


def check_places(recipe: Recipe) -> None:
    """Raise `UserError` where shards are not there, or the run folder is of another recipe: what
    can be found without PyTorch. The session checks the rest.
    """
    for url in [] if recipe.data.build else recipe.data.urls:
        check_folder(url)
    for url in recipe.data.keep_lists:
        check_keep_list(url)
    if getattr(recipe.method, "text_from", None) is None:  # else another run describes a part
        Run(recipe.run).check(recipe, has_mirror=recipe.checkpoints.mirror is not None)


def check_source(recipe: Recipe) -> None:
    """Raise `UserError` where the recipe's `data.build` is no source that generates shards."""
    if recipe.data.build:
        from shards.source import check_generated

        check_generated(recipe.data.build)
