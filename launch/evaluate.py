"""Measure a run's checkpoint: retrieval of captions or of classes, modality gap, zero-shot.

    python launch/evaluate.py runs/quickstart
    python launch/evaluate.py runs/flickr8k_locked --data URL --checkpoint best
    python launch/evaluate.py RUN --protocol class --protocol gap
    deepspeed --num_accelerators 2 launch/evaluate.py RUN      # the work dealt to two processes

Prints a table a protocol and writes RUN/results.json and RUN/report/index.html.
"""

import argparse
import sys

from xmodal.errors import UserError, run_command
from xmodal.evaluation.config import PROTOCOLS
from xmodal.recipe import dump_recipe, load_recipe


def main() -> None:
    given = read_arguments(sys.argv[1:])
    recipe = load_recipe(given.run)
    url = given.data or recipe.data.val
    if url is None:
        raise UserError(f"{given.run} was trained without data.val; give --data URL")
    # Only now the slow imports: help and a wrong run have been answered.
    from xmodal.data.manifest import read_manifest
    from xmodal.distributed.environment import start
    from xmodal.evaluation.examples import retrieved_examples
    from xmodal.evaluation.report import print_results
    from xmodal.evaluation.results import write_results
    from xmodal.evaluation.retrieval import evaluate_retrieval, evaluation_set
    from xmodal.methods.build import build_method, load_tokenizer
    from xmodal.training.checkpoints import load_weights
    from xmodal.training.run import Run

    run = Run(given.run)
    checkpoint = run.find_checkpoint(given.checkpoint)
    manifest = read_manifest(url, recipe.data.s3, recipe.data.cache)
    environment = start()
    tokenizer = load_tokenizer(recipe.method, run.tokenizer)
    method = build_method(recipe, tokenizer, environment.device)
    load_weights(method, checkpoint, recipe.training.zero)
    dataset = evaluation_set(manifest, recipe.method.image.size, tokenizer)
    retrieval = evaluate_retrieval(
        method.to(environment.device),
        dataset,
        manifest.relevance,
        recipe.evaluation,
        protocols=given.protocol,
        device=environment.device,
        workers=recipe.data.workers,
        max_bad_share=recipe.data.max_bad_share,
    )
    if environment.is_main:
        for line in retrieval.fault_lines():
            print(line)
        examples = retrieved_examples(retrieval, dataset.reader)
        write_results(
            run.path,
            retrieval.metrics,
            examples,
            recipe=dump_recipe(recipe),
            history=run.history(),
        )
        print(f"{checkpoint} on {url}")
        print_results(retrieval.metrics, run.path)


def read_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", help="folder of a run")
    parser.add_argument("--data", metavar="URL", help="shards to measure on; default: its data.val")
    parser.add_argument(
        "--checkpoint", default="latest", metavar="NAME", help="latest (default), best, or step-N"
    )
    parser.add_argument(
        "--protocol",
        action="append",
        choices=["default", *PROTOCOLS],
        help="what is measured (docs/evaluation.md), may be given several times; default: its "
        "evaluation.protocols, else relevance where the shards have relevance.json",
    )
    # The DeepSpeed launcher gives it to every script; LOCAL_RANK says the same.
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    run_command(main)
