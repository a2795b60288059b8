"""Measure a model: retrieval of captions, of classes, of images; gap, zero-shot, probes.

    xmodal evaluate runs/quickstart
    xmodal evaluate RUN --data URL --checkpoint best --protocol class --protocol gap
    xmodal evaluate hf-hub:openai/clip-vit-base-patch32 --data URL --output DIR

Prints a table a protocol and writes results.json and report/index.html. The results of the newest
checkpoint on the run's own data.val, by its own protocols, are the run's own and go into RUN; all
others into a folder of RUN/evaluations, or into the DIR of --output. In place of RUN stands any
folder or hf-hub: name that xmodal.load takes, with --output. With --submission it writes the two
files that CIRR's server takes, and nothing else.
"""

import argparse
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from xmodal.activity import activity, reporting
from xmodal.arguments import ArgumentParser, plugin_option
from xmodal.assembly.model_source import ModelSource, find_model
from xmodal.components.plugins import import_plugins
from xmodal.errors import UserError, printable
from xmodal.evaluation.config import check_known, protocol_names

if TYPE_CHECKING:
    from xmodal.assembly.evaluation import Evaluation
    from xmodal.distributed.environment import Environment


def main(
    arguments: Sequence[str], *, prog: str = "xmodal evaluate", description: str | None = __doc__
) -> None:
    """Measure a model, as one rank of a job."""
    given = read_arguments(arguments, prog=prog, description=description)
    source = find_model(given.run, given.checkpoint, given.weights, given.width)
    check_protocols(given.protocol or [])
    check_source(source, given)
    # Only now the slow imports: help and a wrong run have been answered.
    from xmodal.distributed.peers import losing_peers

    with losing_peers():
        measure(given, source)


def check_source(source: ModelSource, given: argparse.Namespace) -> None:
    """Raise `UserError` where shards, or a folder for the results, are named nowhere."""
    if source.run is None and not (given.output or given.submission):
        raise UserError(
            f"{source.source} is no run folder; to measure a model that is none, name a folder for "
            "the results: --output DIR"
        )
    if given.data is None and source.recipe is None:
        raise UserError(f"{source.source} names no shards to measure on; give --data URL")
    if given.data is None and source.recipe and source.recipe.data.val is None:
        raise UserError(f"{source.source} was trained without data.val; give --data URL")


def measure(given: argparse.Namespace, source: ModelSource) -> None:
    """Load the model, and measure it or write a submission."""
    from xmodal.assembly.evaluation import EvaluationRequest, load_evaluation
    from xmodal.distributed.environment import start
    from xmodal.distributed.pulse import watching_peers
    from xmodal.evaluation.protocols.cirr_submission import check_submission
    from xmodal.training.config import TrainingConfig

    request = EvaluationRequest(
        given.data,
        given.gallery,
        given.protocol,
        given.output,
        given.submission,
        given.probe_train,
    )
    training = source.recipe.training if source.recipe else TrainingConfig()
    environment = start(training.rendezvous_timeout)
    reports = reporting(partial(print, flush=True)) if environment.is_main else nullcontext()
    with watching_peers(environment.rendezvous, training.watchdog), reports:
        if given.submission:
            check_submission(Path(given.submission))  # before the work
        with activity(f"loading {source.path}"):
            evaluation = load_evaluation(source, request, environment.device)
        if given.submission:
            paths = evaluation.answer(environment.device)
            print(*paths, sep="\n", end="\n" * environment.is_main)
        else:
            evaluate(evaluation, environment)


def evaluate(evaluation: "Evaluation", environment: "Environment") -> None:
    """Measure, print the metrics, and write them into their folder."""
    from xmodal.evaluation.report.run_report import print_results

    source, measured = evaluation.source, evaluation.describe()
    evaluation.results_folder(measured)  # where it refuses, before the work
    retrieval = evaluation.measure(environment.device)
    if not environment.is_main:
        return
    for line in [*retrieval.fault_lines(), *retrieval.warnings]:
        print(line)
    folder = evaluation.write(retrieval, measured)
    run = source.run
    has_own_place = evaluation.request.output or (run and folder == run.path)
    if run and not has_own_place and evaluation.is_runs_own(measured):
        print(f"{run.results} is of other data or settings than there are now, and stays as it is")
    print(printable(f"{source.path.parent}/{measured}"))
    print_results(retrieval.metrics, folder)


def check_protocols(names: Sequence[str]) -> None:
    """Raise `UserError` for a name that no protocol has; plugins have been imported."""
    for name in names:
        try:
            check_known(name)
        except ValueError as error:
            raise UserError(f"--protocol: {name} is not allowed{error}") from None


def read_arguments(
    arguments: Sequence[str], *, prog: str = "xmodal evaluate", description: str | None = __doc__
) -> argparse.Namespace:
    """Return the options of a command line; their plugins are imported."""
    plugin = plugin_option(prog, "components of the run")
    import_plugins(plugin.parse_known_args(arguments)[0].plugin)
    parser = ArgumentParser(
        prog=prog,
        parents=[plugin],
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_options(parser)
    given = parser.parse_args(arguments)
    check_arguments(given)
    return given


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="folder of a run, or another of a model")
    parser.add_argument("--data", metavar="URL", help="shards to measure on; default: its data.val")
    parser.add_argument(
        "--gallery",
        metavar="URL",
        help="shards that composed queries are searched in; default: its data.gallery",
    )
    parser.add_argument(
        "--probe-train",
        metavar="URL",
        help="labelled shards that linear-probe and knn are fitted on; default: its "
        "data.probe_train",
    )
    parser.add_argument(
        "--checkpoint", default="latest", metavar="NAME", help="latest (default), best, or step-N"
    )
    parser.add_argument(
        "--weights",
        choices=("averaged", "trained"),
        help="which of its weights; default: averaged (ema, schedule-free), else trained",
    )
    parser.add_argument(
        "--width",
        type=int,
        metavar="N",
        help="numbers of embeddings to keep, of a model that is trained at several widths; "
        "default: all",
    )
    parser.add_argument(
        "--protocol",
        action="append",
        metavar="NAME",
        help="protocol to measure by, repeatable; default: its evaluation.protocols, "
        f"else what fits its method; one of {', '.join(protocol_names())}, or of a plugin",
    )
    parser.add_argument(
        "--submission",
        metavar="DIR",
        help="write the submission for CIRR's server, answers to its test1, and measure nothing",
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="folder for the results; default: RUN for the run's own, else one of RUN/evaluations; "
        "needed where there is no run",
    )
    # The DeepSpeed launcher gives it to every script; LOCAL_RANK says the same.
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)


def check_arguments(given: argparse.Namespace) -> None:
    """Raise `UserError` for options that are empty, or contradict each other."""
    for option in ("data", "gallery", "probe_train", "checkpoint", "submission", "output"):
        if getattr(given, option) is not None and not getattr(given, option).strip():
            name = option.replace("_", "-")
            raise UserError(f"--{name} is empty; give it a value, or omit it")
        if option in ("submission", "output") and "://" in (getattr(given, option) or ""):
            raise UserError(f"--{option} {getattr(given, option)}: name a folder on a disk")
    if given.submission and given.protocol not in (None, ["cirr"]):
        raise UserError("--submission is for --protocol cirr alone")
    if given.submission and given.output:
        raise UserError("--output is for results, and --submission measures none; omit one")
