"""Measure a run's checkpoint: retrieval of captions, of classes, of images; gap, zero-shot.

    python launch/evaluate.py runs/quickstart
    python launch/evaluate.py runs/flickr8k_locked --data URL --checkpoint best
    python launch/evaluate.py RUN --protocol class --protocol gap
    python launch/evaluate.py RUN --data QUERIES --gallery URL --protocol fashion200k
    python launch/evaluate.py RUN --data TEST1 --gallery URL --protocol cirr --submission DIR
    deepspeed --num_accelerators 2 launch/evaluate.py RUN      # the work dealt to two processes

Prints a table a protocol and writes results.json and report/index.html. The results of the newest
checkpoint on the run's own data.val, by its own protocols, are the run's own and go into RUN; all
others into a folder of RUN/evaluations, or into the DIR of --output. With --submission it writes
the two files that CIRR's server takes, and nothing else.
"""

import argparse
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from xmodal.activity import activity, reporting
from xmodal.arguments import ArgumentParser
from xmodal.assembly.recipe import Recipe, load_recipe
from xmodal.components.plugins import import_plugins
from xmodal.errors import UserError, printable, run_command
from xmodal.evaluation.config import protocol_names
from xmodal.runs.recipe_file import dump_recipe

if TYPE_CHECKING:
    from xmodal.data.composed import ComposedSet
    from xmodal.data.evaluation import EvaluationSet
    from xmodal.data.manifest import Manifest
    from xmodal.distributed.environment import Environment
    from xmodal.evaluation.report.measured import Measured
    from xmodal.methods.method import Method
    from xmodal.runs.run import Run


@dataclass
class Subject:
    """A checkpoint's method, the sets that it is measured on, and the run that both are of."""

    recipe: Recipe
    run: "Run"
    checkpoint: Path
    method: "Method"
    shards: "Manifest"
    dataset: "EvaluationSet | ComposedSet"
    gallery: "EvaluationSet | None"


def main() -> None:
    given = read_arguments(sys.argv[1:])
    import_plugins(given.plugin)
    recipe = load_recipe(given.run)
    if (given.data or recipe.data.val) is None:
        raise UserError(f"{given.run} was trained without data.val; give --data URL")
    # Only now the slow imports: help and a wrong run have been answered.
    from xmodal.distributed.peers import losing_peers

    with losing_peers():
        measure(given, recipe)


def measure(given: argparse.Namespace, recipe: Recipe) -> None:
    from xmodal.distributed.environment import start
    from xmodal.distributed.pulse import watching_peers
    from xmodal.evaluation.protocols.cirr_submission import check_submission
    from xmodal.runs.run import Run

    run = Run(given.run)
    checkpoint = run.find_checkpoint(given.checkpoint)
    environment = start(recipe.training.roll_call)
    reports = reporting(partial(print, flush=True)) if environment.is_main else nullcontext()
    with watching_peers(environment.roll, recipe.training.watchdog), reports:
        if given.submission:
            check_submission(Path(given.submission))  # before the work
        with activity(f"loading {checkpoint}"):
            subject = load(given, recipe, run, checkpoint, environment)
        if given.submission:
            answer(subject, Path(given.submission), environment)
        else:
            evaluate(given, subject, environment)


def load(
    given: argparse.Namespace,
    recipe: Recipe,
    run: "Run",
    checkpoint: Path,
    environment: "Environment",
) -> Subject:
    """Return what is measured; raises `UserError` where method and data do not fit."""
    from xmodal.assembly.build import build_method, load_tokenizer
    from xmodal.assembly.checks import check_sample_spec
    from xmodal.assembly.vocabulary import tokenizer_of
    from xmodal.data.batch import GALLERY
    from xmodal.data.manifest import read_manifest
    from xmodal.evaluation.retrieval import sets_to_measure
    from xmodal.runs.checkpoints.integrity import check_whole_checkpoint
    from xmodal.runs.checkpoints.load import load_weights

    data = recipe.data
    shards = read_manifest(str(data.val if given.data is None else given.data), data.s3, data.cache)
    check_whole_checkpoint(checkpoint)
    tokenizer = load_tokenizer(recipe.method, tokenizer_of(run, checkpoint))
    method = build_method(recipe, tokenizer, environment.device, of_run=run.path)
    contents = method.contents
    gallery_url = searched(given, recipe, composed=contents.composed)
    gallery_shards = read_manifest(gallery_url, data.s3, data.cache) if gallery_url else None
    dataset, gallery = sets_to_measure(
        contents, shards, gallery_shards, recipe.method.image.size, tokenizer
    )
    for read, held in ((dataset, contents), (gallery, GALLERY)):
        if read is not None:
            check_sample_spec(recipe, read.reader.manifest.url, read.kind, held, local=method.local)
    load_weights(method, checkpoint, recipe.training.zero)
    method.to(environment.device)
    return Subject(recipe, run, checkpoint, method, shards, dataset, gallery)


def searched(given: argparse.Namespace, recipe: Recipe, *, composed: bool) -> str | None:
    """Return the shards that composed queries are searched in; None for other methods."""
    if not composed:
        for option in ("gallery", "submission"):
            if getattr(given, option):
                raise UserError(f"--{option} is for composed queries, which {given.run} has not")
        return None
    url: str | None = given.gallery or recipe.data.gallery
    if url is None:
        raise UserError(f"{given.run} was trained without data.gallery; give --gallery URL")
    return url


def answer(subject: Subject, folder: Path, environment: "Environment") -> None:
    """Write what CIRR's server takes."""
    from xmodal.data.composed import ComposedSet
    from xmodal.evaluation.retrieval import answer_cirr

    assert isinstance(subject.dataset, ComposedSet)
    assert subject.gallery is not None
    paths = answer_cirr(
        subject.method,
        subject.dataset,
        subject.gallery,
        subject.recipe.evaluation,
        folder,
        device=environment.device,
        workers=subject.recipe.data.workers,
    )
    print(*paths, sep="\n", end="\n" * environment.is_main)


def evaluate(given: argparse.Namespace, subject: Subject, environment: "Environment") -> None:
    """Measure, print what was measured, and write it into the folder that it belongs in."""
    from xmodal.evaluation.report.examples import load_examples
    from xmodal.evaluation.report.results import write_results
    from xmodal.evaluation.report.run_report import print_results
    from xmodal.evaluation.retrieval import evaluate_retrieval

    recipe, run, gallery = subject.recipe, subject.run, subject.gallery
    measured = described(given, subject)
    results_folder(given, subject, measured)  # where it refuses, before the work
    retrieval = evaluate_retrieval(
        subject.method,
        subject.dataset,
        subject.shards.relevance,
        recipe.evaluation,
        gallery=gallery,
        protocols=given.protocol,
        device=environment.device,
        workers=recipe.data.workers,
        max_bad_share=recipe.data.max_bad_share,
    )
    if not environment.is_main:
        return
    for line in [*retrieval.fault_lines(), *retrieval.warnings]:
        print(line)
    examples = load_examples(
        retrieval.examples, subject.dataset.reader, gallery.reader if gallery else None
    )
    folder = results_folder(given, subject, measured)
    write_results(
        folder,
        run.path.name,
        retrieval.metrics,
        examples,
        measured,
        recipe=dump_recipe(recipe),
        history=run.history(),
    )
    if folder != run.path and not given.output and is_runs_own(given, subject, measured):
        print(f"{run.results} is of other data or settings than there are now, and stays as it is")
    print(printable(f"{run.checkpoints}/{measured}"))
    print_results(retrieval.metrics, folder)


def described(given: argparse.Namespace, subject: Subject) -> "Measured":
    """Return the description of what is about to be measured."""
    from xmodal.evaluation.protocols.registry import resolve
    from xmodal.evaluation.report.measured import describe
    from xmodal.runs.checkpoints.integrity import digest_of

    config, shards = subject.recipe.evaluation, subject.shards
    return describe(
        subject.checkpoint.name,
        digest_of(subject.checkpoint),
        shards,
        subject.gallery.reader.manifest if subject.gallery else None,
        resolve(given.protocol or config.protocols, subject.method.contents, shards.relevance),
        config,
    )


def results_folder(given: argparse.Namespace, subject: Subject, measured: "Measured") -> Path:
    """Return the folder of an evaluation: the run's own for its own results.

    Raises `UserError` where it holds something else, or cannot be written in.
    """
    from xmodal.evaluation.report.results import check_folder, check_writable, read_results

    run = subject.run
    theirs = read_results(run.path)[1]
    is_own = is_runs_own(given, subject, measured)
    if not given.output and is_own and (theirs is None or measured.of_same_data(theirs)):
        check_writable(run.path)
        return run.path
    folder = Path(given.output or run.path / "evaluations" / measured.name)
    check_folder(folder, measured)
    return folder


def is_runs_own(given: argparse.Namespace, subject: Subject, measured: "Measured") -> bool:
    """Tell whether training measured the same: its newest checkpoint, by data and protocol."""
    from xmodal.evaluation.protocols.registry import resolve
    from xmodal.evaluation.report.measured import place

    data, contents = subject.recipe.data, subject.method.contents
    own = resolve(subject.recipe.evaluation.protocols, contents, subject.shards.relevance)
    given_urls = ((given.data, data.val), (given.gallery, data.gallery))
    return (
        subject.run.latest() == subject.checkpoint
        and all(url is None or (ours and place(url) == place(ours)) for url, ours in given_urls)
        and set(measured.protocols) == set(own)
    )


def read_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = ArgumentParser(
        prog="python launch/evaluate.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="folder of a run")
    parser.add_argument("--data", metavar="URL", help="shards to measure on; default: its data.val")
    parser.add_argument(
        "--gallery",
        metavar="URL",
        help="shards that composed queries are searched in; default: its data.gallery",
    )
    parser.add_argument(
        "--checkpoint", default="latest", metavar="NAME", help="latest (default), best, or step-N"
    )
    parser.add_argument(
        "--protocol",
        action="append",
        choices=protocol_names(),
        help="what is measured (docs/evaluation.md), may be given several times; default: its "
        "evaluation.protocols, else what fits its method",
    )
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="MODULE",
        help="module to import for components that the run uses, may be given several times",
    )
    parser.add_argument(
        "--submission",
        metavar="DIR",
        help="write what CIRR's server takes of the answers to its test1, and measure nothing",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="folder for the results; default: RUN for the run's own, else one of RUN/evaluations",
    )
    # The DeepSpeed launcher gives it to every script; LOCAL_RANK says the same.
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    check_arguments(given)
    return given


def check_arguments(given: argparse.Namespace) -> None:
    """Raise `UserError` for options that are empty, or contradict each other."""
    for option in ("data", "gallery", "checkpoint", "submission", "output"):
        if getattr(given, option) is not None and not getattr(given, option).strip():
            raise UserError(f"--{option} is empty; give it a value, or leave it out")
        if option in ("submission", "output") and "://" in (getattr(given, option) or ""):
            raise UserError(f"--{option} {getattr(given, option)}: name a folder on a disk")
    if given.submission and given.protocol not in (None, ["cirr"]):
        raise UserError("--submission is for --protocol cirr alone")
    if given.submission and given.output:
        raise UserError("--output is for results, and --submission measures none; leave one out")


if __name__ == "__main__":
    run_command(main)
