"""Search a recipe's values: trials under Ray Tune, each a training of its own.

    python launch/tune.py quickstart --space quickstart
    python launch/tune.py RECIPE --space SPACE --sweep DIR data.train=URL data.val=URL
    sbatch --nodes=4 slurm/tune.sbatch RECIPE --space SPACE

RECIPE is a name in xmodal/recipes or the path of a YAML file; key=value overrides any key of it.
SPACE is the path of a YAML file that says which keys are searched, how, and by which metric
(docs/tuning.md), or a name in xmodal/spaces. The folder of the sweep (--sweep DIR) keeps
everything; the same command resumes where it was stopped. It ends with a table of the trials,
DIR/best.yaml, a recipe that launch/train.py takes, and DIR/report/index.html. Each of DIR/trials is
the run folder of a trial.
"""

import argparse
import signal
import sys
from pathlib import Path

from xmodal.arguments import ArgumentParser
from xmodal.assembly.recipe import RECIPES, Recipe, read_recipe
from xmodal.components.description import describe
from xmodal.errors import UnfinishedError, UserError, run_command
from xmodal.runs.restarts import check_restarts
from xmodal.tuning.config import SpaceConfig
from xmodal.tuning.folder import check_folder, make_folder, newest_run
from xmodal.tuning.space import find_space, read_space


def main() -> None:
    recipe, space, folder = read_arguments(sys.argv[1:])
    check_folder(folder, recipe, space)
    check_restarts(newest_run(folder), recipe.training.restarts)
    # Once it runs, Tune ends at SIGUSR1 as it does at Ctrl-C.
    signal.signal(signal.SIGUSR1, stop)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGUSR1))
    if recipe.data.build:
        from shards.missing import build_missing

        build_missing(recipe.data.build, recipe.data.urls, recipe.data.s3)
    # Only now the slow imports: help and mistakes have been answered.
    from xmodal.runs.lock import hold
    from xmodal.tuning.checks import check_sweep, timeline_of
    from xmodal.tuning.cluster import gpus_of, room_for, running_ray
    from xmodal.tuning.report import report
    from xmodal.tuning.sweep import Sweep
    from xmodal.tuning.trial import Plan

    timeline = timeline_of(recipe)
    metric = check_sweep(recipe, space, timeline)
    plan = Plan(recipe, space, metric, folder.absolute(), Path.cwd())
    with hold(folder, f"--sweep {folder}"):
        sweep = Sweep(plan, timeline)
        if not sweep.is_over:
            with running_ray():
                gpus = gpus_of(space)
                room = room_for(space, gpus)
                make_folder(folder, recipe, space)
                sweep.run(gpus, room)
        report(plan, sweep.journal)


def stop(*_: object) -> None:
    raise UnfinishedError("Interrupted before a trial began. Rerun the same command.")


def read_arguments(arguments: list[str]) -> tuple[Recipe, SpaceConfig, Path]:
    parser = ArgumentParser(
        prog="python launch/tune.py",
        usage="python launch/tune.py RECIPE --space SPACE [--sweep DIR] [key=value ...]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(
            [
                "keys of SPACE.yaml:",
                *(
                    f"  {key} ({default})\n      {told}"
                    for key, default, told in describe(SpaceConfig)
                ),
            ]
        ),
    )
    names = ", ".join(sorted(file.stem for file in RECIPES.glob("*.yaml")))
    parser.add_argument("recipe", metavar="RECIPE", help=f"a path, or one of {names}")
    parser.add_argument(
        "overrides", metavar="key=value", nargs="*", default=[], help="keys that differ"
    )
    parser.add_argument(
        "--space",
        metavar="SPACE",
        required=True,
        help="what is searched, and how: a file, or quickstart",
    )
    parser.add_argument("--sweep", metavar="DIR", help="the folder; default: runs/RECIPE-sweep")
    given = parser.parse_intermixed_args(arguments)
    if any(override.startswith("run=") for override in given.overrides):
        raise UserError("run= is for one run; a sweep's trials lie in its folder: --sweep DIR")
    recipe = read_recipe(given.recipe, given.overrides)
    folder = Path(given.sweep or f"{recipe.run}-sweep")
    return recipe, read_space(find_space(given.space), recipe), folder


if __name__ == "__main__":
    run_command(main)
