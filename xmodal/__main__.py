"""Train image-text similarity, measure it, search better values, make shards.

    xmodal train quickstart                                       # in one process
    torchrun --nproc-per-node 2 -m xmodal train quickstart        # in two, with or without GPUs
    deepspeed --module xmodal train quickstart                    # on all GPUs of this machine
    xmodal evaluate runs/quickstart
    xmodal compare runs/first runs/second --to comparisons/mine
    xmodal embed runs/quickstart --data data/scenes/val --to embeddings/scenes
    xmodal interpolate runs/before runs/after --alpha 0.5 --to models/between
    xmodal export runs/quickstart --to models/quickstart --format onnx
    xmodal index embeddings/mine --to indices/mine
    xmodal search indices/mine "a red dress"
    xmodal curate duplicates embeddings/mine --to curated/duplicates
    xmodal plan clip --gpus 64 --gpu h100-80                      # before it is queued
    xmodal tune quickstart --space quickstart
    xmodal shards build pairs --from pairs.csv --to data/mine

`xmodal COMMAND --help` tells of each. On a cluster: docs/cluster.md.
"""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from xmodal import __version__
from xmodal.arguments import ArgumentParser
from xmodal.errors import run_command

COMMANDS = {
    "train": "xmodal.commands.train",
    "evaluate": "xmodal.commands.evaluate",
    "compare": "xmodal.commands.compare",
    "embed": "xmodal.commands.embed",
    "interpolate": "xmodal.commands.interpolate",
    "plan": "xmodal.commands.plan",
    "tune": "xmodal.commands.tune",
    "export": "xmodal.commands.export",
    "index": "xmodal.commands.index",
    "search": "xmodal.commands.search",
    "curate": "xmodal.commands.curate",
    "shards": "shards.__main__",
}


def main(words: Sequence[str]) -> int | None:
    """Run the command that a command line begins with."""
    if words and words[0].startswith("--local_rank="):
        words = words[1:]  # DeepSpeed's launcher puts it first; LOCAL_RANK says the same
    parser = ArgumentParser(
        prog="xmodal", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"xmodal {__version__}")
    parser.add_argument("command", metavar="COMMAND", choices=COMMANDS, help=", ".join(COMMANDS))
    command = parser.parse_args(words[:1]).command
    code: int | None = import_module(COMMANDS[command]).main(words[1:], prog=f"xmodal {command}")
    return code


def console() -> None:
    """Run the console script `xmodal`."""
    run_command(lambda: main(sys.argv[1:]))


if __name__ == "__main__":
    console()
