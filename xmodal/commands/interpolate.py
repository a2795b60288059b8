"""Interpolate the weights of two runs: a model between them, or the curve of several.

    xmodal interpolate runs/before runs/after --alpha 0.5 --to models/between
    xmodal interpolate B --alphas 0,0.25,0.5,0.75,1 --to models/curve

(1 - alpha) · A + alpha · B (WiSE-FT): at 0 the model A, by default the pretrained one that B began
with, at 1 the model B. --alpha writes a run folder that `xmodal evaluate` and `xmodal.load` take.
--alphas measures each and writes a table and a plot, curve.json and report/index.html.
"""

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from xmodal.activity import activity, reporting
from xmodal.arguments import ArgumentParser
from xmodal.assembly.model_source import find_model
from xmodal.assembly.recipe import Recipe, load_recipe
from xmodal.commands.evaluate import check_protocols
from xmodal.components.plugins import import_plugins
from xmodal.errors import UserError, printable

if TYPE_CHECKING:
    from xmodal.assembly.interpolation import Endpoint
    from xmodal.distributed.environment import Environment


def main(
    arguments: Sequence[str], *, prog: str = "xmodal interpolate", description: str | None = __doc__
) -> None:
    """Write one interpolated model, or measure several."""
    given = read_arguments(arguments, prog=prog, description=description)
    import_plugins(given.plugin)
    recipe = load_recipe(given.second)
    check_protocols(given.protocol or [])
    if given.alphas and (given.data or recipe.data.val) is None:
        raise UserError(f"{given.second} was trained without data.val; give --data URL")
    check_new(Path(given.to))
    # Only now the slow imports: help and mistakes have been answered.
    from xmodal.distributed.peers import losing_peers

    with losing_peers():
        interpolate(given, recipe)


def interpolate(given: argparse.Namespace, recipe: Recipe) -> None:
    """Load both models, and write what lies between them."""
    from xmodal.assembly.interpolation import (
        between,
        check_alike,
        load_endpoint,
        start_of,
        write_interpolated,
    )
    from xmodal.distributed.environment import start
    from xmodal.distributed.pulse import watching_peers

    environment = start(recipe.training.rendezvous_timeout)
    reports = reporting(partial(print, flush=True)) if environment.is_main else nullcontext()
    with watching_peers(environment.rendezvous, recipe.training.watchdog), reports:
        second = load_endpoint(given.second, given.checkpoint, given.weights)
        if given.first:
            first = load_endpoint(given.first, given.checkpoint, given.weights)
        else:
            first = start_of(second)
        check_alike(first, second)
        if given.alphas:
            measure(first, second, given, environment)
        elif environment.is_main:
            with activity(f"writing {given.to}"):
                checkpoint = write_interpolated(first, second, given.alpha, Path(given.to))
            print(printable(f"{checkpoint}: {between(first, second, given.alpha)}"))


def measure(
    first: "Endpoint", second: "Endpoint", given: argparse.Namespace, environment: "Environment"
) -> None:
    """Measure the model of each alpha, print a table, and write the report."""
    from xmodal.assembly.evaluation import EvaluationRequest, load_evaluation
    from xmodal.assembly.interpolation import interpolated
    from xmodal.evaluation.report.alphas import print_alphas, write_alphas
    from xmodal.models.adapters import merge_adapters

    device = environment.device
    request = EvaluationRequest(given.data, given.gallery, given.protocol)
    with activity("opening the data"):
        source = find_model(given.second, second.checkpoint.name, given.weights)  # with adapters
        evaluation = load_evaluation(source, request, device)
    merge_adapters(evaluation.method)
    rows = []
    for alpha in given.alphas:
        with activity(f"measuring alpha {alpha:g}"):
            evaluation.method.load_state_dict(interpolated(first.state, second.state, alpha))
            rows.append((alpha, evaluation.measure(device).metrics))
    if environment.is_main:
        models = [first.name, second.name]
        folder = Path(given.to)
        page = write_alphas(folder, folder.name, models, rows, evaluation.describe())
        print_alphas(rows, page)


def check_new(folder: Path) -> None:
    """Raise `UserError` unless a folder is new or empty."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"--to {folder} is there already; name a new folder")


def read_arguments(
    arguments: Sequence[str], *, prog: str = "xmodal interpolate", description: str | None = __doc__
) -> argparse.Namespace:
    """Return the options of a command line."""
    parser = ArgumentParser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "first",
        metavar="A",
        nargs="?",
        help="folder of the run at alpha 0; default: the pretrained model that B began with",
    )
    parser.add_argument("second", metavar="B", help="folder of the run at alpha 1")
    parser.add_argument("--to", metavar="DIR", required=True, help="new folder for what is written")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--alpha", type=_alpha, metavar="X", help="share of B, 0 to 1, in the model")
    how.add_argument("--alphas", type=_alphas, metavar="X,Y,…", help="shares of B to measure")
    parser.add_argument("--data", metavar="URL", help="shards to measure on; default: B's data.val")
    parser.add_argument("--gallery", metavar="URL", help="shards that queries are searched in")
    parser.add_argument(
        "--checkpoint", default="latest", metavar="NAME", help="latest (default), best, or step-N"
    )
    parser.add_argument(
        "--weights",
        choices=("averaged", "trained"),
        help="which of the checkpoints'; default: averaged where there are any",
    )
    parser.add_argument(
        "--protocol", action="append", metavar="NAME", help="protocol to measure by, repeatable"
    )
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="MODULE",
        help="module with components of the runs to import, repeatable",
    )
    return parser.parse_args(arguments)


def _alpha(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number between 0 and 1")
    return value


def _alphas(text: str) -> list[float]:
    return sorted({_alpha(one) for one in text.split(",")})
