"""Submission to CIRR's server: answers to the queries of test1, whose targets are not published."""

import json
from pathlib import Path

from xmodal.atomic_files import write_atomically
from xmodal.data.reader import SampleReader
from xmodal.data.samples import hash_id
from xmodal.errors import UserError
from xmodal.evaluation.metrics.tiles import Choice
from xmodal.evaluation.metrics.top_k import top_k
from xmodal.evaluation.protocols.cirr import Cirr
from xmodal.evaluation.protocols.search import Search
from xmodal.evaluation.report.results import check_writable

VERSION = "rc2"
# Images that are named for a query, by the metric that a file is for.
NAMED = {"recall": 50, "recall_subset": 3}


def check_submission(folder: Path) -> None:
    """Raise `UserError` where a folder has a submission already, or cannot be written in."""
    check_writable(folder, "--submission")
    for metric in NAMED:
        path = folder / f"{metric}.json"
        if path.exists() or path.is_symlink():
            raise UserError(f"{path} exists; remove it, or name another folder: --submission DIR")


def write_submission(folder: Path, search: Search, gallery: SampleReader) -> list[Path]:
    """Write `recall.json` and `recall_subset.json`, and return their paths.

    Each maps `pairid` to the ids of the best images: `recall.json` of the whole gallery,
    `recall_subset.json` of the `members`. `gallery` reads the ids. Raises `UserError` where an
    answer would be incomplete.
    """
    _check_answerable(search, gallery.manifest.url)
    records = search.queries.records
    numbers = search.gallery.numbers.tolist()
    names = [sample.image_id for sample in gallery.load(numbers, ("json",))]
    protocol = Cirr()
    removed: dict[str, Choice] = {
        "recall": protocol.removed(search),
        "recall_subset": protocol.not_member(search),
    }
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for metric, count in NAMED.items():
        _, found = top_k(
            search.queries.embeddings,
            search.gallery.images,
            count,
            tile=search.tile,
            removed=removed[metric],
        )
        answers = {
            str(record["pairid"]): [names[row] for row in rows]
            for record, rows in zip(records, found.tolist(), strict=True)
        }
        paths.append(folder / f"{metric}.json")
        write_atomically(
            paths[-1], json.dumps({"version": VERSION, "metric": metric} | answers) + "\n"
        )
    return paths


def _check_answerable(search: Search, url: str) -> None:
    """Raise `UserError` where a query or the gallery at `url` lacks a part of an answer."""
    records = search.queries.records
    if not all("pairid" in record and record["members"] for record in records):
        raise UserError(
            "a submission names queries by pairid and ranks their members, which some have not in "
            "their samples' JSON; build CIRR's test1 again"
        )
    for record in records:
        pair, source, members = record["pairid"], record["source_id"], set(record["members"])
        for name in (source, *sorted(members)):
            if hash_id(name) not in search.row_of:
                raise UserError(
                    f"{url} has no image {name}, which query {pair} starts from or has as a "
                    "member; name the gallery that belongs to the queries (--gallery)"
                )
        if len(members - {source}) < NAMED["recall_subset"]:
            raise UserError(
                f"query {pair} has {len(members - {source})} members besides its source, and a "
                f"submission names {NAMED['recall_subset']}; build CIRR's test1 again"
            )
    others = len(search.gallery.images) - 1
    if others < NAMED["recall"]:
        raise UserError(
            f"{url} has {others} images besides a query's source, and a submission names "
            f"{NAMED['recall']}; name the whole gallery of CIRR's test1 (--gallery)"
        )
