"""Compare runs side by side: metrics, differences with intervals, curves, queries that differ.

    xmodal compare runs/first runs/second --to comparisons/mine
    xmodal compare RUN RUN RUN --to DIR
    xmodal compare runs/first/evaluations/NAME runs/second/evaluations/NAME --to DIR

Each RUN is a run folder or a folder of results (of RUN/evaluations, or of --output). Differences
are to the first one. Prints a table a protocol and writes DIR/report/index.html.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from xmodal.activity import activity, reporting
from xmodal.arguments import ArgumentParser, plugin_option
from xmodal.components.plugins import import_plugins
from xmodal.errors import UserError

MOST = 8  # runs, which have colours of their own


def main(
    arguments: Sequence[str], *, prog: str = "xmodal compare", description: str | None = __doc__
) -> None:
    """Compare runs."""
    given = read_arguments(arguments, prog=prog, description=description)
    import_plugins(given.plugin)
    check_arguments(given)
    with reporting(partial(print, flush=True)):
        with activity("importing PyTorch"):
            # Only now the slow imports: help and mistakes have been answered.
            from xmodal.assembly.comparison import compare
        compare([Path(run) for run in given.runs], Path(given.to))


def read_arguments(
    arguments: Sequence[str], *, prog: str = "xmodal compare", description: str | None = __doc__
) -> argparse.Namespace:
    """Return the options of a command line."""
    parser = ArgumentParser(
        prog=prog,
        parents=[plugin_option(prog, "components of the runs")],
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", help="folders of runs or of results, two at least"
    )
    parser.add_argument("--to", required=True, metavar="DIR", help="new folder for the page")
    return parser.parse_args(arguments)


def check_arguments(given: argparse.Namespace) -> None:
    """Raise `UserError` for too few or too many runs, and for a folder that is not new."""
    if not 2 <= len(given.runs) <= MOST:
        raise UserError(f"name 2 to {MOST} runs to compare, not {len(given.runs)}")
    folders = [Path(run).absolute() for run in given.runs]
    if len(set(folders)) < len(folders):
        raise UserError("a run is named twice; name each once")
    if "://" in given.to:
        raise UserError(f"--to {given.to}: name a folder on a disk")
    to = Path(given.to)
    if to.exists() and not (to.is_dir() and not any(to.iterdir())):
        raise UserError(f"--to {to} is there already; name a new folder")
