"""Index embeddings for search: exactly where they are few, else approximately, by faiss.

    xmodal index embeddings/mine --to indices/mine
    xmodal index EMBEDDINGS --to INDEX --kind ivf --memory 4GB

EMBEDDINGS is a folder that xmodal embed wrote, on a disk or in a bucket. Kinds: exact (every
vector is compared), ivf (inverted lists of compressed vectors; hits are scored exactly), hnsw (a
graph, which is built and searched in memory). Recall against exact search is measured and printed.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from pydantic import ByteSize, TypeAdapter, ValidationError

from xmodal.activity import activity, reporting
from xmodal.arguments import ArgumentParser
from xmodal.errors import UserError
from xmodal.extras import require

LEAST = 2**28  # bytes of memory: Python and its libraries take as much


def main(
    arguments: Sequence[str], *, prog: str = "xmodal index", description: str | None = __doc__
) -> None:
    """Index embeddings."""
    given = read_arguments(arguments, prog=prog, description=description)
    require("search")
    say = partial(print, flush=True)
    with reporting(say):
        with activity("importing PyTorch"):
            # Only now the slow imports: help and a wrong option have been answered.
            from xmodal.search.build_index import build_index
            from xmodal.search.embeddings import Embeddings
        embeddings = Embeddings(given.embeddings)
        build_index(embeddings, Path(given.to), given.kind, given.memory, say)


def read_arguments(
    arguments: Sequence[str], *, prog: str = "xmodal index", description: str | None = __doc__
) -> argparse.Namespace:
    """Return the options of a command line."""
    parser = ArgumentParser(
        prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("embeddings", metavar="EMBEDDINGS", help="folder of embeddings")
    parser.add_argument("--to", required=True, metavar="INDEX", help="new folder to write")
    parser.add_argument(
        "--kind",
        choices=("exact", "ivf", "hnsw"),
        help="default: exact up to 200,000 vectors, then ivf",
    )
    parser.add_argument(
        "--memory",
        default="4GB",
        metavar="SIZE",
        help="memory to build within, 256MiB or more; default: 4GB",
    )
    given = parser.parse_args(arguments)
    if "://" in given.to:
        raise UserError(f"--to {given.to}: name a folder on a disk; an index is memory-mapped")
    given.memory = read_size(given.memory)
    return given


def read_size(text: str) -> int:
    """Return the bytes of a size such as 4GB or 512MiB; `UserError` where it is none."""
    try:
        size = int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        raise UserError(f"--memory {text} is no size; write one such as 4GB") from None
    if size < LEAST:
        raise UserError(f"--memory {text} is too little; give {LEAST // 2**20}MiB or more")
    return size
