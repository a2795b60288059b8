"""Export a trained model as a folder that other libraries, servers or xmodal.load read.

    xmodal export runs/mine --to mine-hf --format hf
    xmodal export RUN --to DIR --format open_clip --checkpoint best --license apache-2.0
    xmodal export RUN --to DIR --format onnx --int8

Formats: xmodal (any method), onnx (the encoders of any method), open_clip and hf (towers of CLIP
and SigLIP), sentence-transformers (two towers). Each folder has a model card, README.md. RUN is
a run, or a folder or file that xmodal.load reads.
"""

import argparse
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from xmodal.activity import activity, reporting
from xmodal.arguments import ArgumentParser, plugin_option
from xmodal.components.plugins import import_plugins
from xmodal.errors import UserError, printable

FORMATS = ("xmodal", "onnx", "open_clip", "hf", "sentence-transformers")


def main(
    arguments: Sequence[str], *, prog: str = "xmodal export", description: str | None = __doc__
) -> None:
    """Export a model."""
    given = read_arguments(arguments, prog=prog, description=description)
    with reporting(partial(print, flush=True)), _removing_what_is_begun():
        with activity("importing PyTorch"):
            # Only now the slow imports: help and a wrong option have been answered.
            from xmodal.assembly.export import export
            from xmodal.assembly.model import load
        with activity(f"loading {given.model}"):
            model = load(
                given.model,
                checkpoint=given.checkpoint,
                weights=given.weights,
                width=given.width,
                device="cpu",
            )
        with activity(f"writing {given.to}"):
            lines = export(
                model,
                Path(given.to),
                given.format,
                results=Path(given.model) / "results.json",
                licence=given.license,
                int8=given.int8,
            )
    print(*(printable(line) for line in [*lines, f"{given.to}: {given.format}"]), sep="\n")


@contextmanager
def _removing_what_is_begun() -> Iterator[None]:
    """Have SIGTERM end the command as an error does, which removes what is not whole."""
    before = signal.signal(signal.SIGTERM, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(*_: Any) -> None:
    print("Terminated; nothing was written. Run the same command again.", file=sys.stderr)
    sys.exit(128 + signal.SIGTERM)


def read_arguments(
    arguments: Sequence[str], *, prog: str = "xmodal export", description: str | None = __doc__
) -> argparse.Namespace:
    """Return the options of a command line; their plugins are imported."""
    parser = ArgumentParser(
        prog=prog,
        parents=[plugin_option(prog, "components of the run")],
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="RUN", help="folder of a run, or another of a model")
    parser.add_argument("--to", required=True, metavar="DIR", help="new folder to write")
    parser.add_argument("--format", required=True, choices=FORMATS, help="what reads it")
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
        "--license", default="unknown", metavar="NAME", help="license field of the model card"
    )
    parser.add_argument("--int8", action="store_true", help="of onnx: matrices in eight bits")
    given = parser.parse_args(arguments)
    import_plugins(given.plugin)
    check_arguments(given)
    return given


def check_arguments(given: argparse.Namespace) -> None:
    """Raise `UserError` for options that contradict each other, and for a folder that exists."""
    if given.int8 and given.format != "onnx":
        raise UserError(f"--int8 is for --format onnx, not {given.format}")
    if "://" in given.to:
        raise UserError(f"--to {given.to}: name a folder on a disk")
    if Path(given.to).exists():
        raise UserError(f"--to {given.to} exists; name a folder that does not")
    parent = next(one for one in Path(given.to).absolute().parents if one.exists())
    if not parent.is_dir():
        raise UserError(f"--to {given.to}: {parent} is no folder; name another place")
