"""Plan a run before it is queued: whether it fits, what it costs, what limits it. Needs no GPU.

    xmodal plan clip --gpus 64 --gpu h100-80
    xmodal plan RECIPE key=value --gpus N --gpu NAME --fit      # search what fits
    xmodal plan RECIPE --gpus N --gpu NAME --samples 400000000  # shards are elsewhere
    xmodal plan RECIPE --gpus 2 --gpu cpu --json

The run's own code takes its first step on shapes alone, as one of N ranks: a recipe that would fail
there fails here, in one line.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial

from xmodal.activity import activity, reporting
from xmodal.arguments import ArgumentParser
from xmodal.assembly.recipe import import_plugins_of, read_recipe
from xmodal.commands.arguments import add_recipe
from xmodal.components.validation import nearest
from xmodal.costs.hardware import GPUS, named, variants
from xmodal.errors import UserError

CPU = "cpu"


def main(
    arguments: Sequence[str], *, prog: str = "xmodal plan", description: str | None = __doc__
) -> None:
    """Plan a run and print the plan."""
    given = read_arguments(arguments, prog=prog, description=description)
    recipe = read_recipe(given.recipe, given.overrides)
    with nullcontext() if given.json else reporting(partial(print, flush=True)):
        with activity("importing PyTorch"):
            # Only now the slow imports: help and a wrong recipe have been answered.
            from xmodal.assembly.plan_fit import fit
            from xmodal.assembly.plan_table import as_json, print_plan
            from xmodal.assembly.run_plan import Hardware, Planner
        hardware = Hardware(
            given.gpus,
            None if given.gpu == CPU else named(given.gpu),
            given.gpus_per_node,
            given.network * 1e9,
            given.mfu,
            given.storage and given.storage * 1e9,
        )
        with activity("taking the first step on shapes alone"):
            planner = Planner(recipe, hardware, given.samples, given.sample_bytes)
            plan, changes = fit(planner) if given.fit else (planner.plan(planner.recipe), {})
    if given.json:
        json.dump(as_json(plan, changes), sys.stdout, indent=1)
        print()
    else:
        print_plan(plan, changes)


def read_arguments(
    arguments: Sequence[str], *, prog: str = "xmodal plan", description: str | None = __doc__
) -> argparse.Namespace:
    """Return the options of a command line."""
    import_plugins_of(arguments)
    parser = ArgumentParser(
        prog=prog,
        usage=f"{prog} RECIPE [key=value ...] --gpus N --gpu NAME [options]",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_recipe(parser)
    _add_hardware(parser)
    parser.add_argument("--samples", type=_whole, metavar="N", help="samples of an epoch")
    parser.add_argument(
        "--sample-bytes", type=_positive, metavar="B", help="mean bytes of a sample in its shard"
    )
    parser.add_argument(
        "--fit",
        action="store_true",
        help="search micro-batch, ZeRO stage and checkpoints of activations for the fastest run "
        "that fits into memory, and print the keys to add",
    )
    parser.add_argument("--json", action="store_true", help="print JSON: bytes, seconds, FLOPs")
    given = parser.parse_intermixed_args(arguments)
    _check(given)
    return given


def _add_hardware(parser: argparse.ArgumentParser) -> None:
    names = ", ".join(gpu.name for gpu in GPUS)
    parser.add_argument("--gpus", type=_whole, required=True, metavar="N", help="number of ranks")
    parser.add_argument("--gpu", required=True, metavar="NAME", help=f"{CPU}, or one of {names}")
    parser.add_argument("--gpus-per-node", type=_whole, default=8, metavar="N", help="default: 8")
    parser.add_argument(
        "--network",
        type=_positive,
        default=50.0,
        metavar="GB/S",
        help="GB a second of each GPU to other nodes; default: 50, a card of 400 Gb/s a GPU",
    )
    parser.add_argument(
        "--mfu",
        type=_share,
        default=0.4,
        metavar="SHARE",
        help="share of the GPU's peak that computing reaches; default: 0.4",
    )
    parser.add_argument(
        "--storage",
        type=_positive,
        metavar="GB/S",
        help="GB a second that the storage gives all ranks together; default: no limit",
    )


def _check(given: argparse.Namespace) -> None:
    """Raise `UserError` for a GPU that is not known, and for a search without its memory."""
    if given.gpu == CPU:
        if given.fit:
            raise UserError("--fit searches what fits into a GPU's memory; name one by --gpu")
    elif meant := variants(given.gpu):
        raise UserError(f"--gpu {given.gpu} may be {' or '.join(meant)}; name one of them")
    elif named(given.gpu) is None:
        names = [CPU, *(gpu.name for gpu in GPUS)]
        raise UserError(
            f"unknown GPU {given.gpu}{nearest(given.gpu, names)}; known: {', '.join(names)}"
        )


def _whole(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def _share(text: str) -> float:
    number = _positive(text)
    if number > 1:
        raise argparse.ArgumentTypeError(f"{text} is more than 1")
    return number
