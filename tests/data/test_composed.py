"""Queries for evaluation: every one once, with what its protocol needs to know of it."""

from pathlib import Path

import numpy as np
import pytest

from tests.data.test_contents import featured_queries, queries
from tests.shard_sets import Members, described, encode, plain, write_shards
from tests.training_sets import TOKENIZER, captions_of, npy, numbers_of
from xmodal.data.composed import ComposedBatch, ComposedSet
from xmodal.data.evaluation import evaluation_batches
from xmodal.data.reader import SampleReader
from xmodal.data.transforms import ImageTransform


def read(
    folder: Path, samples: dict[str, Members], *chunks: range, workers: int = 0
) -> list[ComposedBatch]:
    items = list(samples.items())
    parts = filter(None, (dict(items[:5]), dict(items[5:])))
    manifest = write_shards(folder, list(parts))
    dataset = ComposedSet(SampleReader(manifest), ImageTransform(8), TOKENIZER)
    return list(evaluation_batches(dataset, chunks, workers=workers))


@pytest.mark.parametrize("workers", [0, 2])
def test_every_query_comes_once(tmp_path: Path, workers: int) -> None:
    chunks = range(3), range(3, 12)
    for chunk, batch in zip(
        chunks, read(tmp_path, queries(12), *chunks, workers=workers), strict=True
    ):
        assert batch.numbers.tolist() == numbers_of(batch.queries) == list(chunk)
        assert captions_of(batch.queries) == [f"{n} {n}" for n in chunk]
        assert [one["source_id"] for one in batch.records] == [f"i{n}" for n in chunk]
        assert [one["target_id"] for one in batch.records] == [f"i{1000 + n}" for n in chunk]
        assert batch.queries.targets is None
        assert batch.faults == ()


def test_records_say_what_the_json_says(tmp_path: Path) -> None:
    """Ids as text; of a query whose target is not published too."""
    samples = {
        "a": {
            "source.png": encode(plain(1)),
            "json": described(
                ["one", "other"],
                modification="1",
                source_id=7,
                pairid=12063,
                members=["a", 7, "c"],
                category="dress",
            ),
        },
        "b": {
            "source.png": encode(plain(2)),
            "json": described(
                [], modification="2", source_id="x", target_id=3, target_ids=[3, "y"], labels=["z"]
            ),
        },
    }
    (batch,) = read(tmp_path, samples, range(2))
    assert batch.faults == ()
    first, second = batch.records
    assert first == {
        "captions": ["one", "other"],
        "modification": "1",
        "source_id": "7",
        "target_id": None,
        "target_ids": [],
        "members": ["a", "7", "c"],
        "pairid": 12063,
        "category": "dress",
    }
    assert (second["target_id"], second["target_ids"], second["members"]) == ("3", ["3", "y"], [])
    assert second["labels"] == ["z"]


def test_features_stand_in_for_queries(tmp_path: Path) -> None:
    first, second = read(tmp_path, featured_queries(9, lower=False), range(2), range(2, 9))
    for chunk, batch in ((range(2), first), (range(2, 9), second)):
        assert batch.queries.images is batch.queries.tokens is None
        assert batch.queries.image_features.tolist() == [[n] * 3 for n in chunk]
        assert batch.queries.text_features.tolist() == [[n] * 2 for n in chunk]
        assert [one["modification"] for one in batch.records] == [f"{n} {n}" for n in chunk]


@pytest.mark.parametrize(
    ("members", "cause"),
    [
        ({"source.png": b"x"}, "image does not decode (not an image)"),
        ({"json": described(["1"], source_id="a")}, "no modification in its json"),
        ({"json": described([], modification=[], source_id="a")}, "no modification in its json"),
        (
            {"json": described([], modification=True, source_id="a")},
            "modification is no text (but true or false)",
        ),
        ({"json": described([], modification="1")}, "no source_id in its json"),
        (
            {"json": described([], modification="1", source_id="a", target_id=[1])},
            "target_id is no text or whole number (but a list)",
        ),
        (
            {"json": described([], modification="1", source_id="a", members=["abc", True])},
            "members is no text or whole number (but true or false)",
        ),
        (
            {"json": described([], modification="1", source_id="a", target_ids=[None])},
            "target_ids has an id that is missing",
        ),
    ],
)
def test_a_query_that_cannot_be_used_is_left_out(
    tmp_path: Path, members: Members, cause: str
) -> None:
    samples = queries(9)
    samples["00007"] = samples["00007"] | members
    found = read(tmp_path, samples, range(6, 9), range(7, 8))
    for chunk, batch in zip(([6, 8], []), found, strict=True):
        assert batch.numbers.tolist() == chunk
        assert len(batch.records) == len(chunk)
        assert [(fault.key, fault.cause) for fault in batch.faults] == [("00007", cause)]


def test_features_of_another_shape_are_left_out(tmp_path: Path) -> None:
    samples = featured_queries(9, lower=False)
    samples["00007"] = samples["00007"] | {"source.npy": npy(np.zeros(4))}
    (batch,) = read(tmp_path, samples, range(9))
    assert batch.numbers.tolist() == [0, 1, 2, 3, 4, 5, 6, 8]
    assert [one.cause for one in batch.faults] == [
        "features of another shape than the first sample's"
    ]
