"""Search a recipe's values: trials under Ray Tune, each a training of its own.

    xmodal tune quickstart --space quickstart
    xmodal tune RECIPE --space SPACE --sweep DIR data.train=URL data.val=URL

RECIPE is the name of a recipe or the path of a YAML file; key=value overrides any key of it.
SPACE is the name of a space, or the path of a YAML file with the keys, the search and the metric.
The folder of the sweep (--sweep DIR) keeps everything; the same command resumes where it was
stopped. It ends with a table of the trials, DIR/best.yaml, a recipe that can be trained, and
DIR/report/index.html. Each of DIR/trials is the run folder of a trial.
"""

import argparse
import signal
from collections.abc import Sequence
from pathlib import Path

from xmodal.arguments import ArgumentParser
from xmodal.assembly.recipe import Recipe, import_plugins_of, read_recipe
from xmodal.commands.arguments import add_recipe, key_lines
from xmodal.commands.train import check_source
from xmodal.errors import UnfinishedError, UserError
from xmodal.extras import require
from xmodal.runs.restarts import check_restarts
from xmodal.tuning.config import SpaceConfig
from xmodal.tuning.folder import check_folder, make_folder, newest_run
from xmodal.tuning.space import find_space, read_space


def main(
    arguments: Sequence[str], *, prog: str = "xmodal tune", description: str | None = __doc__
) -> None:
    """Run a sweep to its end, or resume it."""
    recipe, space, folder = read_arguments(arguments, prog=prog, description=description)
    require("train")
    require("tune")
    check_folder(folder, recipe, space)
    check_restarts(newest_run(folder), recipe.training.restarts)
    # Once it runs, Tune ends at SIGUSR1 as it does at Ctrl-C.
    signal.signal(signal.SIGUSR1, _stop)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGUSR1))
    if recipe.data.build:
        from shards.missing import build_missing

        build_missing(recipe.data.build, recipe.data.urls, recipe.data.access)
    sweep(recipe, space, folder)


def sweep(recipe: Recipe, space: SpaceConfig, folder: Path) -> None:
    """Run the trials that a sweep's folder lacks and write its report."""
    # Only now the slow imports: help and mistakes have been answered.
    from xmodal.assembly.data import epoch_samples, open_shards
    from xmodal.runs.lock import acquire_run_lock
    from xmodal.tuning.checks import check_sweep
    from xmodal.tuning.cluster import gpus_of, room_for, running_ray
    from xmodal.tuning.report import report
    from xmodal.tuning.sweep import Sweep
    from xmodal.tuning.trial import Plan

    shards = open_shards(recipe)
    timeline = recipe.timeline(epoch_samples(recipe, shards))
    metric = check_sweep(recipe, space, shards, timeline)
    plan = Plan(recipe, space, metric, folder.absolute(), Path.cwd())
    with acquire_run_lock(folder, f"--sweep {folder}"):
        sweep = Sweep(plan, timeline)
        if not sweep.is_over:
            with running_ray():
                gpus = gpus_of(space)
                room = room_for(space, gpus)
                make_folder(folder, recipe, space)
                sweep.run(gpus, room)
        report(plan, sweep.journal)


def read_arguments(
    arguments: Sequence[str], *, prog: str = "xmodal tune", description: str | None = __doc__
) -> tuple[Recipe, SpaceConfig, Path]:
    """Return the recipe, the space and the sweep's folder that a command line asks for."""
    import_plugins_of(arguments)
    parser = ArgumentParser(
        prog=prog,
        usage=f"{prog} RECIPE --space SPACE [--sweep DIR] [key=value ...]",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(["keys of SPACE.yaml:", *key_lines(SpaceConfig)]),
    )
    add_recipe(parser)
    parser.add_argument(
        "--space",
        metavar="SPACE",
        required=True,
        help="keys, search and metric: a file, or quickstart",
    )
    parser.add_argument("--sweep", metavar="DIR", help="the folder; default: runs/RECIPE-sweep")
    given = parser.parse_intermixed_args(arguments)
    if any(override.startswith("run=") for override in given.overrides):
        raise UserError("run= is for one run; a sweep's trials lie in its folder: --sweep DIR")
    recipe = read_recipe(given.recipe, given.overrides)
    check_source(recipe)
    folder = Path(given.sweep or f"{recipe.run}-sweep")
    return recipe, read_space(find_space(given.space), recipe), folder


def _stop(*_: object) -> None:
    raise UnfinishedError("Interrupted before a trial began. Rerun the same command.")
