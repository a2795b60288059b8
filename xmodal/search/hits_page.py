"""Hits of a search as a table in the terminal and as a page with their pictures."""

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from xmodal.activity import tracked
from xmodal.atomic_files import write_atomically
from xmodal.data.decode import BadSample, decode_image
from xmodal.errors import UserError
from xmodal.evaluation.report.page import render
from xmodal.evaluation.report.run_report import data_uri
from xmodal.search.query import Hit, Query
from xmodal.search.searcher import Searcher
from xmodal.terminal import console

TEMPLATE = Path(__file__).parent / "hits.html"
MARK = "<!-- xmodal search -->"  # of a page that may be written again


def print_hits(hits: Sequence[Hit]) -> None:
    """Print a table of hits, best first."""
    table = Table("rank", "score", "key", "caption, labels", "shard", box=box.SIMPLE)
    for place, hit in enumerate(hits, 1):
        # Below each other: 80 columns are few.
        words = "\n".join(filter(None, [hit.caption, ", ".join(hit.labels)]))
        table.add_row(str(place), f"{hit.score:.4f}", *map(Text, [hit.key, words, hit.shard]))
    console().print(table if hits else "Nothing was found.")


def check_page(path: Path) -> None:
    """Raise `UserError` where a page cannot be written, or would replace a file of the user's."""
    if not path.parent.is_dir():
        raise UserError(f"--page {path}: there is no folder {path.parent}")
    if path.exists() and not path.is_file():
        raise UserError(f"--page {path} is no file; name one, such as {path / 'search.html'}")
    if path.exists() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
        raise UserError(f"--page {path} exists and is no page of a search; name another file")


def write_page(path: Path, searcher: Searcher, query: Query, hits: Sequence[Hit]) -> None:
    """Write hits with their pictures as one file that needs nothing beside it."""
    shown = [(hit, _picture(searcher, hit.image)) for hit in tracked(hits, "reading image")]
    page = render(
        TEMPLATE,
        _title(query),
        subject=f"{len(hits)} hits in {searcher.index.path}",
        query_image=_asked(searcher, query),
        hits=shown,
    )
    write_atomically(path, page)


def _title(query: Query) -> str:
    if query.like is not None:
        return f"Like {query.like}"
    return query.text or "Like the image"


def _asked(searcher: Searcher, query: Query) -> str | None:
    """Return the image that was searched by, as the page shows it."""
    if query.like is not None:
        return _picture(searcher, searcher.row_of(query.like))
    if query.image is None:
        return None
    data = query.image if isinstance(query.image, bytes) else Path(query.image).read_bytes()
    return _shown(data)


def _picture(searcher: Searcher, row: int) -> str | None:
    """Return the picture of an image; None where it cannot be read or is no image."""
    try:
        return _shown(searcher.picture(row))
    except UserError:
        return None


def _shown(data: bytes) -> str | None:
    try:
        return data_uri(decode_image(data))
    except BadSample:
        return None
