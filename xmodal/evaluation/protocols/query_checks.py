"""Composed queries: their embeddings, and whether a protocol finds in them what it reads."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from xmodal.data.composed import record_of
from xmodal.data.decode import BadSample
from xmodal.data.reader import SampleReader
from xmodal.data.sample_spec import PROBED
from xmodal.data.samples import RawSample
from xmodal.errors import UserError

RUN = 100  # samples that are looked through at a time
# What a protocol reads of a query's JSON beside its source and target.
READS = {
    **dict.fromkeys(["fashion200k", "mit-states", "css"], "target_ids"),
    "fashion-iq": "category",
    "cirr": "members",
}


def check_searchable(protocol: str, queries: SampleReader, gallery: SampleReader) -> None:
    """Raise `UserError` where the first queries lack what a protocol reads of them, or ask for
    nothing in the gallery, or where the gallery has no image of a category that any is of.
    """
    records = list(_first_records(queries))
    check_records(protocol, records, queries.manifest.url)
    asked = {one for record in records for one in (*record["target_ids"], record["target_id"])}
    url = gallery.manifest.url
    found = next((one for one in _readable(gallery) if one.image_id in asked), None)
    if found is None:
        raise UserError(
            f"{url} has no image that the first queries of {queries.manifest.url} ask for; name "
            "the gallery that belongs to them (data.gallery, or --gallery)"
        )
    needed = {"mit-states": 2, "fashion-iq": 1}.get(protocol, 0)
    if len(found.labels()) < needed:
        raise UserError(
            f"{url} has not the labels that {protocol} reads in its samples' JSON; use composed"
        )
    if protocol == "fashion-iq":
        _check_categories(queries, gallery)


def check_records(protocol: str, records: Sequence[Mapping[str, Any]], url: str) -> None:
    """Raise `UserError` where a query lacks what a protocol reads of it."""
    if not any(record["target_id"] or record["target_ids"] for record in records):
        raise UserError(
            f"the queries of {url} do not say which image they ask for: they can be answered "
            "(launch/evaluate.py --submission, of CIRR), but not measured"
        )
    key = READS.get(protocol)
    if key and not all(record.get(key) for record in records):
        raise UserError(
            f"{url} has no {key} in its samples' JSON, which {protocol} reads; use composed"
        )


def _check_categories(queries: SampleReader, gallery: SampleReader) -> None:
    missing = {one.record.get("category") for one in _readable(queries)}
    missing.discard(None)  # told by `check_records`
    for image in _readable(gallery):
        missing.difference_update(image.labels())
        if not missing:
            return
    raise UserError(
        f"{gallery.manifest.url} has no image with the label {min(missing, key=str)}, a category "
        f"of the queries of {queries.manifest.url}, and fashion-iq searches each in its own; name "
        "the galleries of all categories (data.gallery, or --gallery)"
    )


def _first_records(queries: SampleReader) -> Iterator[dict[str, Any]]:
    for number in range(min(PROBED, len(queries))):
        try:
            yield record_of(queries[number])
        except BadSample:
            continue


def _readable(reader: SampleReader) -> Iterator[RawSample]:
    """Yield the samples whose JSON can be used, without their images."""
    for start in range(0, len(reader), RUN):
        for sample in reader.load(range(start, min(start + RUN, len(reader))), ("json",)):
            try:
                _ = sample.image_id, sample.labels()
            except BadSample:
                continue  # named when it is encoded
            yield sample
