"""What CIRR's server takes: answers to the queries of test1, whose targets are not published."""

import json
from pathlib import Path

from xmodal.data.manifest import write_atomically
from xmodal.data.reader import SampleReader
from xmodal.errors import UserError
from xmodal.evaluation.composed import Search
from xmodal.evaluation.ranking import top_k
from xmodal.evaluation.tiles import Choice

VERSION = "rc2"
# How many images are named for a query, by the metric that a file is for.
NAMED = {"recall": 50, "recall_subset": 3}


def write_submission(folder: Path, search: Search, gallery: SampleReader, tile: int) -> list[Path]:
    """Write `recall.json` and `recall_subset.json`, and return their paths.

    Each maps `pairid` to the ids of the images that a query finds first, the second one among the
    `members`; `gallery` reads their ids. Raises `UserError` where a query has no pairid or members.
    """
    records = search.queries.records
    if not all("pairid" in record and record["members"] for record in records):
        raise UserError(
            "a submission names queries by pairid and ranks their members, which some have not in "
            "their samples' JSON; build CIRR's test1 again"
        )
    numbers = search.gallery.numbers.tolist()
    names = [sample.image_id for sample in gallery.load(numbers, ("json",))]
    removed: dict[str, Choice] = {"recall": search.removed, "recall_subset": search.not_member}
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for metric, count in NAMED.items():
        found = top_k(
            search.queries.embeddings,
            search.gallery.images,
            count,
            tile=tile,
            removed=removed[metric],
        )
        answers = {
            str(record["pairid"]): [
                names[row] for row, score in zip(rows, scores, strict=True) if score > -float("inf")
            ]
            for record, scores, rows in zip(
                records, *(column.tolist() for column in found), strict=True
            )
        }
        paths.append(folder / f"{metric}.json")
        write_atomically(
            paths[-1], json.dumps({"version": VERSION, "metric": metric} | answers) + "\n"
        )
    return paths
