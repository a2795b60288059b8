"""Embed a shard set by a trained model: vectors and metadata, for search and curation.

    xmodal embed runs/quickstart --data data/scenes/val --to embeddings/scenes
    xmodal embed MODEL --data s3://BUCKET/SHARDS --to s3://BUCKET/EMBEDDINGS --dtype float32
    deepspeed --module xmodal embed MODEL --data URL --to URL       # on all GPUs of this machine

MODEL is a run, an exported folder, or a pretrained model that xmodal.load takes. The layout is
clip-retrieval's: img_emb/, text_emb/ and metadata/, one part a shard. The same command resumes an
interrupted one; its files do not depend on the number of ranks.
"""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

from xmodal.activity import printed, reporting
from xmodal.arguments import ArgumentParser, plugin_option
from xmodal.assembly.model_source import ModelSource, find_model
from xmodal.components.plugins import import_plugins
from xmodal.errors import UserError, printable

if TYPE_CHECKING:
    from xmodal.search.embeddings import EmbeddingsInfo


def main(
    arguments: Sequence[str], *, prog: str = "xmodal embed", description: str | None = __doc__
) -> None:
    """Embed a shard set, as one rank of a job."""
    given = read_arguments(arguments, prog=prog, description=description)
    model = find_model(given.model, given.checkpoint, given.weights, given.width)
    # Only now the slow imports: help and a wrong model have been answered.
    from xmodal.distributed.peers import losing_peers

    with losing_peers():
        embed(model, given)


def embed(model: ModelSource, given: argparse.Namespace) -> None:
    """Load the model, and embed this rank's shards."""
    from xmodal.assembly.embedding_job import EmbeddingRequest, load_embedder
    from xmodal.distributed.environment import start
    from xmodal.distributed.pulse import watching_peers
    from xmodal.search.embedding_run import embed_shards
    from xmodal.training.config import TrainingConfig
    from xmodal.training.preemption import Preemption

    request = EmbeddingRequest(
        given.data, given.to, given.dtype, given.batch_size, given.workers, given.max_bad_share
    )
    training = model.recipe.training if model.recipe else TrainingConfig()
    environment, preemption = start(training.rendezvous_timeout), Preemption()
    reports = reporting(partial(print, flush=True)) if environment.is_main else nullcontext()
    with watching_peers(environment.rendezvous, training.watchdog), reports:
        embedder = load_embedder(model, request, environment, lambda: preemption.asked, say)
        with preemption:
            info = embed_shards(embedder, environment, say)
    if info:
        print(*(printable(line) for line in summary_lines(info, given.to)), sep="\n")


def say(line: str) -> None:
    """Print a line of the log."""
    print(line, flush=True)
    printed()


def summary_lines(info: "EmbeddingsInfo", to: str) -> Iterator[str]:
    """Yield lines about finished embeddings."""
    rows = ", ".join(f"{number:,} {side}" for side, number in (info.rows or {}).items())
    speed = f", {info.samples_per_second:,.0f} samples/s" if info.samples_per_second else ""
    parts = f"{info.parts:,} {'part' if info.parts == 1 else 'parts'}"
    yield f"{to}: {rows} of {info.dim} values, {info.dtype}, in {parts}{speed}"
    for what, causes in (("bad samples", info.faults), ("dropped parts", info.dropped)):
        if causes:
            named = ", ".join(f"{cause}: {number:,}" for cause, number in causes.items())
            yield f"{what}: {sum(causes.values()):,}, named in {to}/faults ({named})"


def read_arguments(
    arguments: Sequence[str], *, prog: str = "xmodal embed", description: str | None = __doc__
) -> argparse.Namespace:
    """Return the options of a command line; their plugins are imported."""
    parser = ArgumentParser(
        prog=prog,
        parents=[plugin_option(prog, "components of the run")],
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_options(parser)
    given = parser.parse_args(arguments)
    import_plugins(given.plugin)
    check_arguments(given)
    return given


def _add_options(parser: ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="a run, or another folder of a model")
    parser.add_argument("--data", required=True, metavar="URL", help="shards to embed")
    parser.add_argument(
        "--to", required=True, metavar="URL", help="folder of the embeddings, on disk or in s3://"
    )
    parser.add_argument(
        "--checkpoint",
        default="latest",
        metavar="NAME",
        help="of a run: latest (default), best, or step-N",
    )
    parser.add_argument(
        "--weights",
        choices=("averaged", "trained"),
        help="of a run; default: averaged (ema, schedule-free), else trained",
    )
    parser.add_argument(
        "--width",
        type=int,
        metavar="N",
        help="numbers of embeddings to keep, of a model that is trained at several widths; "
        "default: all",
    )
    parser.add_argument(
        "--dtype", choices=("float16", "float32"), default="float16", help="default: float16"
    )
    parser.add_argument(
        "--batch-size", type=int, metavar="N", help="samples encoded at a time, on a rank"
    )
    parser.add_argument("--workers", type=int, metavar="N", help="loading processes a rank")
    parser.add_argument(
        "--max-bad-share",
        type=float,
        metavar="SHARE",
        help="share of unreadable samples above which it stops; default: that of the run, or 0.01",
    )
    # The DeepSpeed launcher gives it to every script; LOCAL_RANK says the same.
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)


def check_arguments(given: argparse.Namespace) -> None:
    """Raise `UserError` for options that are empty or out of range."""
    for option in ("data", "to", "checkpoint"):
        if not getattr(given, option).strip():
            raise UserError(f"--{option} is empty; give it a value")
    if given.batch_size is not None and given.batch_size < 1:
        raise UserError(f"--batch-size {given.batch_size}: give a number of 1 or more")
    if given.workers is not None and given.workers < 0:
        raise UserError(f"--workers {given.workers}: give a number of 0 or more")
    if given.max_bad_share is not None and not 0 <= given.max_bad_share <= 1:
        raise UserError(f"--max-bad-share {given.max_bad_share}: give a share, from 0 to 1")
