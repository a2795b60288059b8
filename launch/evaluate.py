"""Measure a run's checkpoint: retrieval of captions, of classes, of images; gap, zero-shot.

    python launch/evaluate.py runs/quickstart
    python launch/evaluate.py runs/flickr8k_locked --data URL --checkpoint best
    python launch/evaluate.py RUN --protocol class --protocol gap
    python launch/evaluate.py RUN --data QUERIES --gallery URL --protocol fashion200k
    python launch/evaluate.py RUN --data TEST1 --gallery URL --protocol cirr --submission DIR
    deepspeed --num_accelerators 2 launch/evaluate.py RUN      # the work dealt to two processes

Prints a table a protocol and writes RUN/results.json and RUN/report/index.html; with --submission
the two files that CIRR's server takes, and nothing else.
"""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from xmodal.errors import UserError, run_command
from xmodal.evaluation.config import PROTOCOLS
from xmodal.recipe import Recipe, dump_recipe, load_recipe

if TYPE_CHECKING:
    from xmodal.data.composed import ComposedSet
    from xmodal.data.evaluation import EvaluationSet
    from xmodal.evaluation.retrieval import Retrieval
    from xmodal.training.run import Run


def main() -> None:
    given = read_arguments(sys.argv[1:])
    recipe = load_recipe(given.run)
    url = given.data or recipe.data.val
    if url is None:
        raise UserError(f"{given.run} was trained without data.val; give --data URL")
    # Only now the slow imports: help and a wrong run have been answered.
    from xmodal.distributed.peers import losing_peers

    with losing_peers():
        measure(given, recipe, url)


def measure(given: argparse.Namespace, recipe: Recipe, url: str) -> None:
    from xmodal.data.batch import GALLERY
    from xmodal.data.composed import ComposedSet
    from xmodal.data.manifest import read_manifest
    from xmodal.distributed.environment import start
    from xmodal.evaluation.retrieval import answer_cirr, evaluate_retrieval, sets_to_measure
    from xmodal.methods.build import build_method, load_tokenizer
    from xmodal.training.checkpoints import load_weights
    from xmodal.training.checks import check_kind
    from xmodal.training.run import Run
    from xmodal.training.wholeness import check_whole_checkpoint

    run, data = Run(given.run), recipe.data
    checkpoint = run.find_checkpoint(given.checkpoint)
    shards = read_manifest(url, data.s3, data.cache)
    environment = start(recipe.training.roll_call)
    check_whole_checkpoint(checkpoint)
    tokenizer = load_tokenizer(recipe.method, run.tokenizer)
    method = build_method(recipe, tokenizer, environment.device)
    gallery_url = searched(given, recipe, composed=method.contents.composed)
    gallery_shards = read_manifest(gallery_url, data.s3, data.cache) if gallery_url else None
    dataset, gallery = sets_to_measure(
        method.contents, shards, gallery_shards, recipe.method.image.size, tokenizer
    )
    for read, contents in ((dataset, method.contents), (gallery, GALLERY)):
        if read is not None:
            check_kind(recipe, read.reader.manifest.url, read.kind, contents, local=method.local)
    load_weights(method, checkpoint, recipe.training.zero)
    method.to(environment.device)
    if given.submission:
        assert isinstance(dataset, ComposedSet)
        assert gallery is not None
        paths = answer_cirr(
            method,
            dataset,
            gallery,
            recipe.evaluation,
            Path(given.submission),
            device=environment.device,
            workers=data.workers,
        )
        print(*paths, sep="\n", end="\n" * environment.is_main)
        return
    retrieval = evaluate_retrieval(
        method,
        dataset,
        shards.relevance,
        recipe.evaluation,
        gallery=gallery,
        protocols=given.protocol,
        device=environment.device,
        workers=data.workers,
        max_bad_share=data.max_bad_share,
    )
    if environment.is_main:
        report(retrieval, dataset, gallery, run, recipe, f"{checkpoint} on {url}")


def searched(given: argparse.Namespace, recipe: Recipe, *, composed: bool) -> str | None:
    """Return the shards that composed queries are searched in; None for other methods."""
    if given.submission and given.protocol not in (None, ["cirr"]):
        raise UserError("--submission is for --protocol cirr alone")
    if not composed:
        for option in ("gallery", "submission"):
            if getattr(given, option):
                raise UserError(f"--{option} is for composed queries, which {given.run} has not")
        return None
    url = given.gallery or recipe.data.gallery
    if url is None:
        raise UserError(f"{given.run} was trained without data.gallery; give --gallery URL")
    return url


def report(
    retrieval: "Retrieval",
    dataset: "EvaluationSet | ComposedSet",
    gallery: "EvaluationSet | None",
    run: "Run",
    recipe: Recipe,
    title: str,
) -> None:
    """Print what was measured, and write it into the run folder."""
    from xmodal.evaluation.examples import retrieved_examples
    from xmodal.evaluation.report import print_results
    from xmodal.evaluation.results import write_results

    for line in retrieval.fault_lines():
        print(line)
    examples = retrieved_examples(
        retrieval.finds, dataset.reader, gallery.reader if gallery else None
    )
    write_results(
        run.path, retrieval.metrics, examples, recipe=dump_recipe(recipe), history=run.history()
    )
    print(title)
    print_results(retrieval.metrics, run.path)


def read_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
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
        choices=["default", *PROTOCOLS],
        help="what is measured (docs/evaluation.md), may be given several times; default: its "
        "evaluation.protocols, else what fits its method",
    )
    parser.add_argument(
        "--submission",
        metavar="DIR",
        help="write what CIRR's server takes of the answers to its test1, and measure nothing",
    )
    # The DeepSpeed launcher gives it to every script; LOCAL_RANK says the same.
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run_command(main)
