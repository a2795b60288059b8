"""Whole evaluations of composed queries: shards in, metrics, finds and CIRR's submission out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.evaluation.test_retrieval import metrics_of
from tests.processes import on_ranks
from tests.shard_sets import Members, encode, plain, write_shards
from tests.training_sets import TOKENIZER, npy
from xmodal.data.batch import Batch, BatchSpec
from xmodal.data.composed import ComposedSet
from xmodal.data.manifest import read_manifest
from xmodal.data.transforms import ImageTransform
from xmodal.errors import UserError
from xmodal.evaluation.config import EvaluationConfig
from xmodal.evaluation.embedding import embed, embed_queries, in_evaluation
from xmodal.evaluation.protocols.fashion_iq import FashionIq
from xmodal.evaluation.protocols.registry import fitting
from xmodal.evaluation.protocols.search import Search
from xmodal.evaluation.report.examples import load_examples
from xmodal.evaluation.retrieval import (
    Retrieval,
    answer_cirr,
    evaluate_retrieval,
    sets_to_measure,
)
from xmodal.methods.method import Loss, Method
from xmodal.methods.tirg import ComposedEmbeddings

CPU = torch.device("cpu")
IMAGES, QUERIES, DIM = 60, 23, 6
CATEGORIES = ["dress", "shirt"]


class Sum(Method):
    """A query is its source and the mean of its words, each of which is a random vector."""

    contents = BatchSpec(composed=True)

    def __init__(self) -> None:
        super().__init__()
        table = torch.randn(TOKENIZER.vocabulary, DIM, generator=torch.Generator().manual_seed(0))
        self.words = nn.Embedding.from_pretrained(table)
        self.encoded = 0  # rows

    @property
    def losses(self) -> dict[str, Loss]:
        return {}

    def encode(self, batch: Batch) -> ComposedEmbeddings:
        queries = None
        if batch.image_features is not None:
            assert batch.tokens is not None
            assert batch.token_mask is not None
            words = (self.words(batch.tokens) * batch.token_mask[..., None]).sum(1)
            queries = self.unit(batch.image_features + words)
        targets = None if batch.target_features is None else self.unit(batch.target_features)
        return ComposedEmbeddings(queries, targets, batch.image_ids)

    def unit(self, rows: Tensor) -> Tensor:
        self.encoded += len(rows)
        return F.normalize(rows, dim=1)


def features() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(IMAGES, DIM)).astype(np.float32)


def query_of(number: int, *, published: bool = True, **more: Any) -> dict[str, Any]:
    """Query `number` starts from image 2n and asks for image 2n + 1, or n + 3 as well."""
    source, target = 2 * number, 2 * number + 1
    record = {
        "modification": f"{number} and {target}",
        "source_id": f"i{source}",
        "pairid": 100 + number,
        "members": [f"i{(source + n) % IMAGES}" for n in range(6)],
        "category": CATEGORIES[number % 2],
    }
    if published:
        record |= {"target_id": f"i{target}", "target_ids": [f"i{target}", f"i{number + 3}"]}
    return record | more


def write_queries(folder: Path, *, last: dict[str, Any] | None = None, **options: Any) -> Path:
    """Write all queries; of the last one other things may be told than of each."""
    both = features()
    samples: dict[str, Members] = {}
    for number in range(QUERIES):
        record = query_of(number, **options)
        if last and number == QUERIES - 1:
            record |= last
        record = {name: value for name, value in record.items() if value is not None}
        target = {"target.npy": npy(both[2 * number + 1])} if "target_id" in record else {}
        samples[f"{number:03d}"] = {
            "source.npy": npy(both[2 * number]),
            "json": json.dumps(record).encode(),
            **target,
        }
    write_shards(folder, [dict(list(samples.items())[:9]), dict(list(samples.items())[9:])])
    return folder


def write_gallery(
    folder: Path, prefix: str = "i", *, images: int = IMAGES, labels: bool = True
) -> Path:
    samples: dict[str, Members] = {}
    for number, values in enumerate(features()[:images]):
        record: dict[str, Any] = {"image_id": f"{prefix}{number}", "gallery": True}
        if labels:
            record["labels"] = [CATEGORIES[number // 2 % 2], f"thing{number % 3}"]
        samples[f"{number:03d}"] = {"image.npy": npy(values), "json": json.dumps(record).encode()}
    write_shards(folder, [samples])
    return folder


@pytest.fixture
def shards(tmp_path: Path) -> tuple[Path, Path]:
    return write_queries(tmp_path / "queries"), write_gallery(tmp_path / "gallery")


def measured(shards: tuple[Path, Path], *protocols: str, method: Method | None = None) -> Retrieval:
    method = method or Sum()
    queries, gallery = (read_manifest(one) for one in shards)
    dataset, searched = sets_to_measure(
        method.contents, queries, gallery, ImageTransform(8), TOKENIZER
    )
    return evaluate_retrieval(
        method,
        dataset,
        None,
        EvaluationConfig(batch_size=5),
        gallery=searched,
        protocols=protocols or None,
        device=CPU,
        workers=0,
        max_bad_share=0.2,
    )


def test_all_protocols_from_one_pass_are_what_each_is_alone(shards: tuple[Path, Path]) -> None:
    method, composed = Sum(), fitting(Sum.contents)
    both = measured(shards, *composed, method=method).metrics
    assert method.encoded == QUERIES + IMAGES
    alone = [measured(shards, name).metrics for name in composed]
    assert both == {name: value for metrics in alone for name, value in metrics.items()}
    assert measured(shards).metrics == alone[composed.index("composed")]
    assert both["composed/num_queries"] == QUERIES
    assert both["composed/num_images"] == IMAGES
    assert both["fashion-iq/recall@10"] == pytest.approx(
        (both["fashion-iq/dress/recall@10"] + both["fashion-iq/shirt/recall@10"]) / 2
    )


def test_what_is_counted_is_what_the_embeddings_say(shards: tuple[Path, Path]) -> None:
    images = F.normalize(torch.from_numpy(features()), dim=1)
    hits = []
    for number in range(QUERIES):
        record = query_of(number)
        tokens, mask = TOKENIZER([record["modification"]])
        query = Batch(
            image_features=torch.from_numpy(features()[[2 * number]]),
            tokens=tokens,
            token_mask=mask,
        )
        scores = (images @ Sum().encode(query).queries[0]).tolist()
        scores[2 * number] = -1
        best = sorted(range(IMAGES), key=lambda n: -scores[n])[:10]
        hits.append(bool({2 * number + 1, number + 3} & {n for n in best if n != 2 * number}))
    metrics = measured(shards, "fashion200k").metrics
    assert metrics["fashion200k/recall@10"] == pytest.approx(100 * sum(hits) / QUERIES)


def of_a_rank(shards: tuple[Path, Path]) -> tuple[dict[str, float], list[str]]:
    found = measured(shards, "composed", "fashion-iq")
    return found.metrics, [str(find.query) for find in found.examples]


def test_the_results_of_queries_are_those_that_metrics_are_means_of(
    shards: tuple[Path, Path],
) -> None:
    names = [name for name in fitting(Sum.contents) if name != "css"]  # which has recall@1 alone
    found = measured(shards, *names)
    explained = metrics_of(found.per_query)
    known = {name: value for name, value in found.metrics.items() if name in explained}
    assert {name: explained[name] for name in known} == pytest.approx(known)
    assert {name.rpartition("/")[0] for name in known} == {
        "cirr",
        "composed",
        "fashion-iq/dress",
        "fashion-iq/shirt",
        "fashion200k",
        "mit-states",
    }


def test_all_ranks_get_the_same(shards: tuple[Path, Path]) -> None:
    alone = of_a_rank(shards)
    first, second = on_ranks(2, of_a_rank, shards)
    assert first == second
    assert first[0] == pytest.approx(alone[0])
    assert first[1] == alone[1]


def test_finds_are_shown_without_the_source(tmp_path: Path) -> None:
    gallery = write_gallery(tmp_path / "gallery")
    queries = write_queries(tmp_path / "queries")
    found = measured((queries, gallery))
    readers = [read_manifest(one) for one in (queries, gallery)]
    sets = sets_to_measure(Sum.contents, *readers, ImageTransform(8), TOKENIZER)
    examples = load_examples(found.examples, *(one.reader for one in sets if one))
    assert [example.text for example in examples[:2]] == ["0 and 1", "3 and 7"]
    for example, find in zip(examples, found.examples, strict=True):
        assert example.image is not None
        assert len(example.hits) == 5
        source = 2 * find.query.number
        assert source not in [part.number for part, _, _ in find.hits]
        first = next((n for n, hit in enumerate(example.hits) if hit.is_relevant), None)
        assert (first is not None) == (find.rank is not None and find.rank < 5)
        assert first in (None, find.rank)


def test_examples_are_pictures_of_sources_and_of_what_was_found(tmp_path: Path) -> None:
    record = query_of(0) | {"target_ids": []}
    picture = {"source.png": encode(plain(1)), "target.png": encode(plain(2))}
    write_shards(tmp_path / "q", [{"a": picture | {"json": json.dumps(record).encode()}}])
    items = {
        str(n): {"png": encode(plain(n)), "json": json.dumps({"image_id": f"i{n}"}).encode()}
        for n in range(3)
    }
    write_shards(tmp_path / "g", [items])

    class Colours(Sum):
        def encode(self, batch: Batch) -> ComposedEmbeddings:
            sides = (batch.images, batch.targets)
            rows = [None if s is None else self.unit(s.double().flatten(1)) for s in sides]
            return ComposedEmbeddings(*rows, None)

    found = measured((tmp_path / "q", tmp_path / "g"), method=Colours())
    readers = [read_manifest(tmp_path / name) for name in ("q", "g")]
    sets = sets_to_measure(Sum.contents, *readers, ImageTransform(8), TOKENIZER)
    (example,) = load_examples(found.examples, *(one.reader for one in sets if one))
    assert np.array_equal(example.image, plain(1))
    # The source, image 0, is not searched.
    assert sorted(np.asarray(hit.item)[0, 0, 1] for hit in example.hits) == [1, 2]
    assert [hit.is_relevant for hit in example.hits].count(True) == 1


def test_the_submission_is_what_cirrs_server_takes(tmp_path: Path) -> None:
    queries = write_queries(tmp_path / "queries", published=False)
    gallery = write_gallery(tmp_path / "gallery")
    readers = [read_manifest(one) for one in (queries, gallery)]
    dataset, searched = sets_to_measure(Sum.contents, *readers, ImageTransform(8), TOKENIZER)
    assert isinstance(dataset, ComposedSet)
    assert searched is not None
    method, config = Sum(), EvaluationConfig(batch_size=5)
    given = {"device": CPU, "workers": 0}
    paths = answer_cirr(method, dataset, searched, config, tmp_path / "to", **given)
    assert [path.name for path in paths] == ["recall.json", "recall_subset.json"]
    with in_evaluation(method):
        embedded, _ = embed_queries(method, dataset, 5, **given)
        images, _ = embed(method, searched, 5, **given)
    scores = embedded.embeddings @ images.images.T
    for path, count in zip(paths, (50, 3), strict=True):
        answers = json.loads(path.read_text())
        assert answers.pop("version") == "rc2"
        assert answers.pop("metric") == path.stem
        assert answers.keys() == {str(100 + number) for number in range(QUERIES)}
        for number, row in enumerate(scores):
            record = query_of(number)
            names = set(record["members"]) if count == 3 else {f"i{n}" for n in range(IMAGES)}
            names.remove(record["source_id"])
            expected = sorted(names, key=lambda name: -float(row[int(name[1:])]))[:count]
            assert answers[str(100 + number)] == expected


UNANSWERABLE: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no members": (
        {"members": None},
        {},
        "a submission names queries by pairid and ranks their members, which some have not",
    ),
    "another gallery": ({}, {"prefix": "x"}, "GALLERY has no image i0, which query 100 starts"),
    "a member that the gallery lacks": (
        {"last": {"members": ["i44", "i45", "i46", "j1"]}},
        {},
        "GALLERY has no image j1, which query 122 starts from or has as a member; name the",
    ),
    "few members": (
        {"last": {"members": ["i44", "i45", "i46", "i46"]}},
        {},
        "query 122 has 2 members besides its source, and a submission names 3; build",
    ),
    "a small gallery": (
        {},
        {"images": 50},
        "GALLERY has 49 images besides a query's source, and a submission names 50; name",
    ),
}


@pytest.mark.parametrize("mistake", UNANSWERABLE)
def test_a_submission_is_whole_or_not_written(mistake: str, tmp_path: Path) -> None:
    of_queries, of_gallery, line = UNANSWERABLE[mistake]
    queries = write_queries(tmp_path / "queries", published=False, **of_queries)
    gallery = write_gallery(tmp_path / "gallery", **of_gallery)
    readers = [read_manifest(one) for one in (queries, gallery)]
    dataset, searched = sets_to_measure(Sum.contents, *readers, ImageTransform(8), TOKENIZER)
    assert isinstance(dataset, ComposedSet)
    assert searched is not None
    to = tmp_path / "to"
    with pytest.raises(UserError) as error:
        answer_cirr(Sum(), dataset, searched, EvaluationConfig(), to, device=CPU, workers=0)
    assert str(error.value).startswith(line.replace("GALLERY", str(gallery)))
    assert not to.exists()


MISTAKES: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "another gallery": (
        "composed",
        {},
        {"prefix": "x"},
        "GALLERY has no image that the first queries of QUERIES ask for; name the gallery that",
    ),
    "no targets": (
        "cirr",
        {"published": False},
        {},
        "the queries of QUERIES do not say which image they ask for: they can be answered (launch",
    ),
    "no target_ids": (
        "css",
        {"target_ids": []},
        {},
        "QUERIES has no target_ids in its samples' JSON, which css reads; use composed",
    ),
    "no category": (
        "fashion-iq",
        {"category": None},
        {},
        "QUERIES has no category in its samples' JSON, which fashion-iq reads; use composed",
    ),
    "no members": (
        "cirr",
        {"members": None},
        {},
        "QUERIES has no members in its samples' JSON, which cirr reads; use composed",
    ),
    "no labels": (
        "mit-states",
        {},
        {"labels": False},
        "GALLERY has not the labels that mit-states reads in its samples' JSON; use composed",
    ),
    "a category that the gallery lacks": (
        "fashion-iq",
        {"last": {"category": "toptee"}},
        {},
        "GALLERY has no image with the label toptee, a category of the queries of QUERIES, and",
    ),
    "no queries": (
        "class",
        {},
        {},
        "class is not for this method; it is measured by cirr or composed or css or",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_cannot_be_measured_is_one_line_before_anything_is_encoded(
    mistake: str, tmp_path: Path
) -> None:
    protocol, of_queries, of_gallery, line = MISTAKES[mistake]
    queries = write_queries(tmp_path / "queries", **of_queries)
    gallery = write_gallery(tmp_path / "gallery", **of_gallery)
    method = Sum()
    with pytest.raises(UserError) as error:
        measured((queries, gallery), protocol, method=method)
    expected = line.replace("QUERIES", str(queries)).replace("GALLERY", str(gallery))
    assert str(error.value).startswith(expected)
    assert method.encoded == 0


def test_queries_that_lack_what_the_first_have_are_not_found(shards: tuple[Path, Path]) -> None:
    method = Sum()
    readers = [read_manifest(one) for one in shards]
    dataset, searched = sets_to_measure(method.contents, *readers, ImageTransform(8), TOKENIZER)
    assert isinstance(dataset, ComposedSet)
    assert searched is not None
    with in_evaluation(method):
        queries, _ = embed_queries(method, dataset, 5, device=CPU, workers=0)
        gallery, _ = embed(method, searched, 5, device=CPU, workers=0)
    queries.records[4] |= {"target_ids": [], "target_id": None, "category": None}
    search = Search(queries, gallery, 64)
    rows = torch.tensor([4])
    assert not search.relevant(rows).any()
    assert FashionIq().removed(search)(rows).all()
