"""Find what a shard set should not have, and write a list of the samples to keep.

    xmodal curate duplicates EMBEDDINGS --to curated/duplicates
    xmodal curate leakage TRAIN_EMBEDDINGS --against TEST_EMBEDDINGS --to DIR
    xmodal curate clip-score EMBEDDINGS --best 0.3 --to DIR
    xmodal curate outliers EMBEDDINGS --to DIR
    xmodal curate confused EMBEDDINGS --to DIR
    xmodal curate clusters EMBEDDINGS --number 100 --to DIR
    xmodal curate mine EMBEDDINGS --margin 0.05 --to DIR
    xmodal curate keep-list EMBEDDINGS --from datacomp.npy --to DIR

EMBEDDINGS is a folder that launch/embed.py wrote, or one of launch/index.py. DIR gets a table of
what was found, report.html with pictures, and keep.parquet, which data.train takes as `keep`.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from xmodal.activity import activity, reporting
from xmodal.arguments import ArgumentParser
from xmodal.errors import UserError
from xmodal.extras import require


def main(
    arguments: Sequence[str], *, prog: str = "xmodal curate", description: str | None = __doc__
) -> None:
    """Run a task of curation."""
    given = read_arguments(arguments, prog=prog, description=description)
    require("search")
    with reporting(partial(print, flush=True)):
        with activity("importing PyTorch"):
            # Only now the slow imports: help and a wrong option have been answered.
            from xmodal.search.curation.tasks import curate
        curate(given.task, vars(given), Path(given.to))


def read_arguments(
    arguments: Sequence[str], *, prog: str = "xmodal curate", description: str | None = __doc__
) -> argparse.Namespace:
    """Return the options of a command line."""
    parser = ArgumentParser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tasks = parser.add_subparsers(dest="task", metavar="TASK", required=True)
    for name, (meaning, add_options) in TASKS.items():
        task = tasks.add_parser(
            name, help=meaning, description=f"{meaning[0].upper()}{meaning[1:]}."
        )
        task.add_argument("embeddings", metavar="EMBEDDINGS", help="folder, or an index of it")
        task.add_argument("--to", required=True, metavar="DIR", help="new folder to write")
        add_options(task)
    given = parser.parse_args(arguments)
    check_arguments(given)
    return given


def check_arguments(given: argparse.Namespace) -> None:
    """Raise `UserError` for options that contradict each other, and for a folder that exists."""
    if "://" in given.to:
        raise UserError(f"--to {given.to}: name a folder on a disk")
    if Path(given.to).exists():
        raise UserError(f"--to {given.to} exists; name a folder that does not")
    if getattr(given, "rule", "") == "embeddings" and given.similarity is None:
        raise UserError("--rule embeddings needs --similarity, the least that is a duplicate's")
    if given.task == "clip-score" and (given.threshold is None) == (given.best is None):
        raise UserError("clip-score: give one of --threshold SCORE and --best SHARE")


def _rule(task: argparse.ArgumentParser) -> None:
    task.add_argument(
        "--rule",
        choices=("pictures", "embeddings"),
        default="pictures",
        help="pictures (default): nearest neighbours whose small grey pictures correlate, also "
        "cropped or mirrored; embeddings: similarity alone",
    )
    task.add_argument(
        "--similarity",
        type=similarity,
        metavar="S",
        help="least similarity of embeddings; default: two standard deviations above random pairs",
    )


def _leakage(task: argparse.ArgumentParser) -> None:
    task.add_argument(
        "--against", required=True, metavar="EMBEDDINGS", help="those of the test set"
    )
    _rule(task)


def _clip_score(task: argparse.ArgumentParser) -> None:
    task.add_argument("--threshold", type=similarity, metavar="SCORE", help="least score to keep")
    task.add_argument("--best", type=share, metavar="SHARE", help="share to keep, such as 0.3")


def _outliers(task: argparse.ArgumentParser) -> None:
    task.add_argument(
        "--neighbours", type=count, default=10, metavar="N", help="of an image; default: 10"
    )
    task.add_argument(
        "--deviations",
        type=not_negative,
        default=3.0,
        metavar="D",
        help="remove what is so many robust standard deviations farther than the median "
        "distance; default: 3",
    )
    task.add_argument("--drop", type=share, metavar="SHARE", help="remove this share instead")


def _confused(task: argparse.ArgumentParser) -> None:
    task.add_argument(
        "--number", type=count, default=100, metavar="N", help="of pairs; default: 100"
    )


def _clusters(task: argparse.ArgumentParser) -> None:
    task.add_argument(
        "--number", type=count, default=100, metavar="N", help="of clusters; default: 100"
    )


def _mine(task: argparse.ArgumentParser) -> None:
    task.add_argument(
        "--number", type=count, default=10, metavar="N", help="of each side; default: 10"
    )
    task.add_argument(
        "--margin",
        type=margin,
        default=0.0,
        metavar="M",
        help="remove what scores higher than the pair itself less M; default: 0",
    )


def _keep_list(task: argparse.ArgumentParser) -> None:
    task.add_argument(
        "--from", dest="source", required=True, metavar="FILE", help="DataComp's .npy, or .parquet"
    )


def count(text: str) -> int:
    """Return a number of things, at least 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def similarity(text: str) -> float:
    """Return a similarity, from -1 to 1."""
    return _within(text, 1, "similarity")


def margin(text: str) -> float:
    """Return a difference of similarities, from -2 to 2."""
    return _within(text, 2, "difference of similarities")


def not_negative(text: str) -> float:
    """Return a finite number, at least 0."""
    number = float(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no number from 0")
    return number


def _within(text: str, limit: int, what: str) -> float:
    number = float(text)
    if not -limit <= number <= limit:
        raise argparse.ArgumentTypeError(f"{text} is no {what}: -{limit} to {limit}")
    return number


def share(text: str) -> float:
    """Return a share, between 0 and 1."""
    number = float(text)
    if not 0 < number < 1:
        raise argparse.ArgumentTypeError(f"{text} is no share between 0 and 1")
    return number


TASKS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "duplicates": ("near duplicates in groups, of each of which one is kept", _rule),
    "leakage": ("train images that are near duplicates of test images", _leakage),
    "clip-score": ("how well each image and its captions go together", _clip_score),
    "outliers": ("images that are far from all others", _outliers),
    "confused": ("images that are nearer to captions of another", _confused),
    "clusters": ("clusters of images with a contact sheet, and weights that even them", _clusters),
    "mine": ("hard negatives: each sample's nearest that are not relevant", _mine),
    "keep-list": ("convert DataComp's list of uids to a keep-list, and back", _keep_list),
}
