"""Outcome of a task of curation: numbers, tables, a keep-list and a page with pictures."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from xmodal.activity import tracked
from xmodal.atomic_files import write_atomically
from xmodal.data.decode import BadSample, decode_image
from xmodal.errors import UserError
from xmodal.evaluation.report.page import render
from xmodal.evaluation.report.run_report import data_uri
from xmodal.search.keep_lists import KEEP, write_keep_list
from xmodal.search.searcher import Searcher

SHOWN = 40  # sections of a page, of pairs and groups
PICTURE = 200  # pixels
TEMPLATE = Path(__file__).parent / "curation.html"


@dataclass(frozen=True)
class Figure:
    """An image of a set on the page, and what is said below it besides its key and caption."""

    searcher: Searcher
    row: int
    note: str


@dataclass(frozen=True)
class Section:
    """Images that belong together."""

    title: str
    figures: Sequence[Figure]


@dataclass(frozen=True)
class Outcome:
    """Outcome of a task.

    Attributes:
        numbers: what is printed, by its name.
        kept: which rows of images to keep, (rows,) bool; None: the task makes no keep-list.
        weights: of the rows, (rows,).
        tables: what is written as parquet, by name.
        sections: what the page shows.
        shown: what of all there is the page shows.
    """

    numbers: Mapping[str, str]
    kept: np.ndarray | None = None
    weights: np.ndarray | None = None
    tables: Mapping[str, pa.Table] = field(default_factory=dict)
    sections: Sequence[Section] = ()
    shown: str = ""


def places(searcher: Searcher, rows: np.ndarray, prefix: str = "") -> dict[str, pa.ChunkedArray]:
    """Return the columns shard and key of rows of images, named with a prefix."""
    table = searcher.sides["images"].metadata.select(["shard", "key"]).take(pa.array(rows))
    return {f"{prefix}{name}": table[name] for name in ("shard", "key")}


def write_outcome(
    outcome: Outcome, searcher: Searcher, folder: Path, title: str, about: Mapping[str, object]
) -> None:
    """Write the tables, the keep-list, the page, and `about` with the numbers as curation.json."""
    for name, table in outcome.tables.items():
        pq.write_table(table, folder / f"{name}.parquet")
    if outcome.kept is not None:
        rows = np.flatnonzero(outcome.kept)
        weights = None if outcome.weights is None else outcome.weights[rows]
        write_keep_list(folder / KEEP, pa.table(places(searcher, rows)), weights)
    page = render(
        TEMPLATE,
        title,
        subject=searcher.info.data.url,
        numbers=outcome.numbers,
        shown=outcome.shown,
        sections=[(one.title, _figures(one)) for one in _tracked(outcome.sections)],
    )
    write_atomically(folder / "report.html", page)
    record = {**about, "found": dict(outcome.numbers)}
    write_atomically(folder / "curation.json", json.dumps(record, indent=1) + "\n")


def _tracked(sections: Sequence[Section]) -> Sequence[Section]:
    return list(tracked(sections, "reading images of the page: part"))


def _figures(section: Section) -> list[tuple[str, str, str | None, str | None]]:
    """Return of each figure its note, key, caption and picture."""
    records = [(one, one.searcher.record(one.row)) for one in section.figures]
    return [(one.note, r["key"], r["caption"], _picture(one)) for one, r in records]


def _picture(figure: Figure) -> str | None:
    try:
        return data_uri(decode_image(figure.searcher.picture(figure.row)), PICTURE)
    except (BadSample, UserError):
        return None
