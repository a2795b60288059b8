"""Search an index by a text, an image, both, or an indexed image.

    xmodal search indices/mine "a red dress"
    xmodal search INDEX --image FILE
    xmodal search INDEX --image FILE --modification "in blue"
    xmodal search INDEX --like KEY -k 50 --where "label = 'shirt' AND width >= 224"
    xmodal search INDEX --serve

Prints a table of the hits and writes them with their pictures as a page. INDEX is a folder that
`xmodal index` wrote. The model that made the embeddings encodes texts and images; where it has
moved, name it with --model. --serve opens a page to search with, at http://127.0.0.1:8000.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from xmodal.activity import activity, reporting
from xmodal.arguments import ArgumentParser, plugin_option
from xmodal.components.plugins import import_plugins
from xmodal.errors import UserError
from xmodal.extras import require

if TYPE_CHECKING:
    from xmodal.search.searcher import Searcher

LOOPBACK, PORT = "127.0.0.1", 8000


def main(
    arguments: Sequence[str], *, prog: str = "xmodal search", description: str | None = __doc__
) -> None:
    """Search an index."""
    given = read_arguments(arguments, prog=prog, description=description)
    require("search")
    if given.image is not None and not Path(given.image).is_file():
        raise UserError(f"--image {given.image}: there is no such file")
    with reporting(partial(print, flush=True)):
        with activity("importing PyTorch"):
            # Only now the slow imports: help and a wrong option have been answered.
            from xmodal.assembly.indexed_model import indexed_model
            from xmodal.search.searcher import Searcher
        searcher = Searcher.open(given.index)
        searcher.load_model = partial(indexed_model, searcher.info.model, given.model)
        answer = serve_page if given.serve else write_hits
        answer(searcher, given)


def write_hits(searcher: "Searcher", given: argparse.Namespace) -> None:
    """Print the hits of a query, and write them as a page."""
    from xmodal.search.hits_page import check_page, print_hits, write_page
    from xmodal.search.query import Query

    page = Path(given.page)
    check_page(page)
    query = Query(given.text or given.modification, given.image, given.like)
    hits = searcher.search(query, given.side, given.k, where=given.where)
    print_hits(hits)
    write_page(page, searcher, query, hits)
    print(f"page: {page}")


def serve_page(searcher: "Searcher", given: argparse.Namespace) -> None:
    """Serve a page to search with, until Ctrl-C."""
    from xmodal.search.server.server import serve

    host, port = given.host or LOOPBACK, PORT if given.port is None else given.port
    serve(searcher, host, port, partial(print, flush=True))


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
    parser.add_argument("--serve", action="store_true", help="serve a page to search with")
    parser.add_argument(
        "--port", type=int, metavar="N", help=f"port of the page; default: {PORT}; 0: any free one"
    )
    parser.add_argument(
        "--host",
        metavar="ADDRESS",
        help=f"address to listen at; default: {LOOPBACK}; others ask for a token that is printed",
    )
    given = parser.parse_intermixed_args(arguments)
    import_plugins(given.plugin)
    check_arguments(given)
    return given


def check_arguments(given: argparse.Namespace) -> None:
    """Raise `UserError` for options that contradict each other, and a file that is missing."""
    if given.serve:
        check_serving(given)
        return
    if given.port is not None or given.host is not None:
        raise UserError("--port and --host are of --serve")
    if [given.text, given.image, given.like].count(None) != 2:
        raise UserError("search by one of TEXT, --image and --like")
    if given.modification is not None and given.image is None:
        raise UserError("--modification is of an image; give --image FILE too")
    if given.k < 1:
        raise UserError(f"-k {given.k} must be at least 1")


def check_serving(given: argparse.Namespace) -> None:
    """Raise `UserError` where a query is given beside --serve, or a port that is none."""
    if [given.text, given.image, given.like, given.modification, given.where] != [None] * 5:
        raise UserError("--serve takes no query: the page asks for it")
    if not 0 <= (given.port or 0) < 2**16:
        raise UserError(f"--port {given.port}: a port is 0 to 65535")
