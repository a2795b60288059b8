"""Search an index by a text, an image, both, or an indexed image.

    xmodal search indices/mine "a red dress"
    xmodal search INDEX --image FILE
    xmodal search INDEX --image FILE --modification "in blue"
    xmodal search INDEX --like KEY -k 50 --where "label = 'shirt' AND width >= 224"

Prints a table of the hits and writes them with their pictures as a page. INDEX is a folder that
xmodal index wrote. The model that made the embeddings encodes texts and images; where it has
moved, name it with --model.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from xmodal.activity import activity, reporting
from xmodal.arguments import ArgumentParser, plugin_option
from xmodal.components.plugins import import_plugins
from xmodal.errors import UserError
from xmodal.extras import require


def main(
    arguments: Sequence[str], *, prog: str = "xmodal search", description: str | None = __doc__
) -> None:
    """Search an index."""
    given = read_arguments(arguments, prog=prog, description=description)
    require("search")
    with reporting(partial(print, flush=True)):
        with activity("importing PyTorch"):
            # Only now the slow imports: help and a wrong option have been answered.
            from xmodal.assembly.indexed_model import indexed_model
            from xmodal.search.hits_page import check_page, print_hits, write_page
            from xmodal.search.query import Query
            from xmodal.search.searcher import Searcher
        page = Path(given.page)
        check_page(page)
        query = Query(given.text or given.modification, given.image, given.like)
        searcher = Searcher.open(given.index)
        searcher.load_model = partial(indexed_model, searcher.info.model, given.model)
        hits = searcher.search(query, given.side, given.k, where=given.where)
        print_hits(hits)
        write_page(page, searcher, query, hits)
    print(f"page: {page}")


def read_arguments(
    arguments: Sequence[str], *, prog: str = "xmodal search", description: str | None = __doc__
) -> argparse.Namespace:
    """Return the options of a command line; their plugins are imported."""
    parser = ArgumentParser(
        prog=prog,
        parents=[plugin_option(prog, "components of the model")],
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("index", metavar="INDEX", help="folder of an index")
    parser.add_argument("text", metavar="TEXT", nargs="?", help="what to search for, in words")
    parser.add_argument("--image", metavar="FILE", help="image to search by")
    parser.add_argument("--modification", metavar="TEXT", help="change of the image, in words")
    parser.add_argument("--like", metavar="KEY", help="key of an indexed image, or SHARD/KEY")
    parser.add_argument("-k", type=int, default=20, metavar="N", help="number of hits; default: 20")
    parser.add_argument("--where", metavar="CONDITION", help="SQL condition over the metadata")
    parser.add_argument(
        "--in",
        dest="side",
        choices=("images", "texts"),
        default="images",
        help="what is searched; default: images",
    )
    parser.add_argument(
        "--page", default="search.html", metavar="FILE", help="page to write; default: search.html"
    )
    parser.add_argument("--model", metavar="RUN", help="where the model of the embeddings is now")
    given = parser.parse_intermixed_args(arguments)
    import_plugins(given.plugin)
    check_arguments(given)
    return given


def check_arguments(given: argparse.Namespace) -> None:
    """Raise `UserError` for options that contradict each other, and a file that is missing."""
    if [given.text, given.image, given.like].count(None) != 2:
        raise UserError("search by one of TEXT, --image and --like")
    if given.modification is not None and given.image is None:
        raise UserError("--modification is of an image; give --image FILE too")
    if given.image is not None and not Path(given.image).is_file():
        raise UserError(f"--image {given.image}: there is no such file")
    if given.k < 1:
        raise UserError(f"-k {given.k} must be at least 1")
