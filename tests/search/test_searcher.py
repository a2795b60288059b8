"""Search of an index against a sort of all scores by numpy."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.search.embedding_folders import image_record, write_embeddings
from xmodal.errors import UserError
from xmodal.methods.scores import dot_product
from xmodal.search.build_index import build_index
from xmodal.search.embeddings import Embeddings
from xmodal.search.query import Query
from xmodal.search.searcher import Searcher

DIM = 8


def whole(rows: int, seed: int = 0, each: int = 1) -> np.ndarray:
    """Vectors of small whole numbers, many of whose scores are equal."""
    shape = (rows, each, DIM) if each > 1 else (rows, DIM)
    return np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float32)


def indexed(folder: Path, *parts: np.ndarray, **options: Any) -> Path:
    """Index images whose keys are their numbers, of two labels, in parts."""
    records, first = [], 0
    for number, part in enumerate(parts):
        records.append(
            [
                image_record(
                    str(first + n),
                    labels=["even" if n % 2 == 0 else "odd"],
                    shard=f"{number:06d}.tar",
                    width=first + n,
                )
                for n in range(len(part))
            ]
        )
        first += len(part)
    write_embeddings(folder / "embeddings", list(zip(parts, records, strict=True)), **options)
    build_index(Embeddings(folder / "embeddings"), folder / "index", "exact", 10**9, print)
    return folder / "index"


def model_of(images: np.ndarray | Tensor | None = None, **changes: Any) -> Any:
    """A model that embeds any query as `images[0]`, or as what `changes` say."""
    vector = torch.as_tensor(np.asarray(images))[:1] if images is not None else None
    method = SimpleNamespace(
        shortlist=changes.pop("shortlist", None),
        score_pairs=changes.pop("score_pairs", None),
        contents=SimpleNamespace(composed=changes.pop("composed", False)),
        modules=list,
        eval=lambda: None,
    )
    encode = dict.fromkeys(["encode_images", "encode_texts"], lambda _: vector)
    encode["encode_queries"] = lambda *_: vector
    return SimpleNamespace(method=method, device=torch.device("cpu"), **encode | changes)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_hits_are_the_head_of_a_stable_sort(tmp_path: Path, dtype: str) -> None:
    vectors, query = whole(70), whole(1, seed=1)
    index = indexed(tmp_path, vectors[:30], vectors[30:], dtype=dtype)
    searcher = Searcher.open(index, lambda: model_of(query))
    scores = vectors @ query[0]
    order = np.argsort(-scores, kind="stable")
    hits = searcher.search(Query(text="any"), k=25)
    assert [hit.row for hit in hits] == order[:25].tolist()
    assert [hit.score for hit in hits] == scores[order[:25]].tolist()
    assert [hit.key for hit in hits] == [str(row) for row in order[:25]]
    # Pages follow each other without gaps, and end with the rows.
    pages = [searcher.search(Query(image=b"any"), k=25, start=n) for n in (0, 25, 50, 75)]
    assert [hit.row for page in pages for hit in page] == order.tolist()
    assert [len(page) for page in pages] == [25, 25, 20, 0]
    assert [hit.row for hit in searcher.search(Query(text="any"), k=1000)] == order.tolist()


def test_a_filter_removes_rows_and_nothing_else(tmp_path: Path) -> None:
    vectors, query = whole(70), whole(1, seed=1)
    searcher = Searcher.open(indexed(tmp_path, vectors[:31], vectors[31:]), lambda: model_of(query))
    order = np.argsort(-(vectors @ query[0]), kind="stable")
    found = searcher.search(Query(text="any"), k=100, where="width >= 20 AND width < 50")
    assert [hit.row for hit in found] == [row for row in order if 20 <= row < 50]
    found = searcher.search(Query(text="any"), k=5, start=3, where="label = 'odd'")
    assert [hit.labels for hit in found] == [["odd"]] * 5
    assert searcher.search(Query(text="any"), where="label = 'neither'") == []
    with pytest.raises(UserError, match=r"unknown column widht \(did you mean width\?\)"):
        searcher.search(Query(text="any"), where="widht = 1")


def test_an_image_finds_the_others_like_it(tmp_path: Path) -> None:
    vectors = whole(70)
    searcher = Searcher.open(indexed(tmp_path, vectors))  # no model is needed
    order = np.argsort(-(vectors @ vectors[12]), kind="stable")
    expected = [row for row in order if row != 12]
    for like in ("12", 12, "000000.tar/12"):
        assert [hit.row for hit in searcher.search(Query(like=like), k=70)] == expected
    # Among captions, whose vectors are the images' negatives, its own is one of the hits.
    found = searcher.search(Query(like="12"), "texts", k=70)
    assert [hit.row for hit in found] == np.argsort(vectors @ vectors[12], kind="stable").tolist()
    assert found[0].image == found[0].row
    assert found[0].caption == f"a picture of {found[0].row}"


def test_keys_are_those_of_one_image(tmp_path: Path) -> None:
    vectors = whole(4)
    records = [image_record("same", shard=f"{n:06d}.tar") for n in range(2)]
    write_embeddings(
        tmp_path / "e", [(vectors[:1], records[:1]), (vectors[1:2], records[1:])], texts=False
    )
    build_index(Embeddings(tmp_path / "e"), tmp_path / "index", None, 10**9, print)
    searcher = Searcher.open(tmp_path / "index")
    with pytest.raises(UserError, match="2 images have the key same; write SHARD/KEY, such as 000"):
        searcher.row_of("same")
    assert searcher.row_of("000001.tar/same") == 1
    with pytest.raises(
        UserError, match=r"no image of the index has the key other; keys are such as same$"
    ):
        searcher.row_of("other")
    with pytest.raises(UserError, match=r"the key me; keys are such as same$"):
        searcher.row_of("me")
    with pytest.raises(UserError, match="there is no row 2 among the 2 images"):
        searcher.row_of(2)
    with pytest.raises(UserError, match="has no texts to search, only images"):
        searcher.search(Query(like=0), "texts")


def test_of_several_vectors_an_item_the_best_pair_counts(tmp_path: Path) -> None:
    vectors, query = whole(60, each=3), whole(1, seed=1, each=3)
    searcher = Searcher.open(indexed(tmp_path, vectors), lambda: model_of(query))
    scores = np.einsum("nkd,md->nkm", vectors, query[0]).max((1, 2))
    hits = searcher.search(Query(text="any"), k=20)
    order = np.argsort(-scores, kind="stable")[:20]
    assert [(hit.row, hit.score) for hit in hits] == [(row, scores[row]) for row in order]


def learned(images: Tensor, texts: Tensor) -> Tensor:
    """A score that orders otherwise than the dot product, and knows image from text."""
    return (images * texts.roll(1, -1)).sum(-1) - images[..., 0]


@pytest.fixture
def uncsm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, np.ndarray, Any]:
    """Vectors, a query, and the searcher of a method with a learned score."""
    vectors, query = whole(70), whole(1, seed=1)
    index = indexed(tmp_path, vectors)
    monkeypatch.setattr("xmodal.search.searcher.is_learned", lambda _: True)
    monkeypatch.setattr("xmodal.search.own_score.SHORTLIST", 30)
    model = model_of(query, shortlist=dot_product, score_pairs=learned)
    return vectors, query[0], Searcher.open(index, lambda: model)


def test_a_learned_score_orders_its_shortlist(uncsm: Any) -> None:
    vectors, query, searcher = uncsm
    shortlist = np.argsort(-(vectors @ query), kind="stable")[:30]
    dear = learned(torch.from_numpy(vectors[shortlist]), torch.from_numpy(query)).numpy()
    expected = shortlist[np.argsort(-dear, kind="stable")].tolist()
    assert [hit.row for hit in searcher.search(Query(text="any"), k=100)] == expected
    # The image comes first in the score, whichever is the query.
    captions = -vectors
    shortlist = np.argsort(-(captions @ query), kind="stable")[:30]
    dear = learned(torch.from_numpy(query), torch.from_numpy(captions[shortlist])).numpy()
    expected = shortlist[np.argsort(-dear, kind="stable")].tolist()
    assert [hit.row for hit in searcher.search(Query(image=b""), "texts", k=100)] == expected
    odd = searcher.search(Query(image=b""), "texts", k=100, where="label = 'odd'")
    assert len(odd) == 30
    assert {hit.labels[0] for hit in odd} == {"odd"}
    # Images among images are in the order of the cheap score.
    order = np.argsort(-(vectors @ query), kind="stable").tolist()
    assert [hit.row for hit in searcher.search(Query(image=b""), k=100)] == order


def test_composed_queries_need_a_composed_model(tmp_path: Path) -> None:
    vectors, query = whole(20), whole(1, seed=1)
    index = indexed(tmp_path, vectors)
    composed = Searcher.open(index, lambda: model_of(query, composed=True))
    hits = composed.search(Query(text="in blue", image=b"any"), k=1)
    assert hits[0].row == int((vectors @ query[0]).argmax())
    with pytest.raises(UserError, match="clip composes no queries"):
        Searcher.open(index, lambda: model_of(query)).search(Query(text="in blue", image=b""))


def test_pictures_come_from_the_shards_of_the_index_alone(tmp_path: Path) -> None:
    (tmp_path / "000000.tar").write_bytes(b"." * 512 + b"picture" + b"." * 99)
    (tmp_path / "secret").write_bytes(b"secret")
    place = {"offset": 512, "size": 7}
    records = [image_record("a", **place), image_record("b", shard="../secret", offset=0, size=6)]
    records.append(image_record("c", offset=None, size=None))
    url = str(tmp_path / "000000.tar")
    write_embeddings(tmp_path / "e", [(whole(3), records)], shards=[url])
    build_index(Embeddings(tmp_path / "e"), tmp_path / "index", None, 10**9, print)
    searcher = Searcher.open(tmp_path / "index")
    assert searcher.picture(0) == b"picture"
    for row in (1, 2):
        with pytest.raises(UserError, match=f"row {row} has no image in the shards"):
            searcher.picture(row)
    (tmp_path / "000000.tar").unlink()
    with pytest.raises(UserError, match=r"000000\.tar is missing"):
        Searcher.open(tmp_path / "index").picture(0)


def test_queries_that_cannot_be_are_one_line(tmp_path: Path) -> None:
    for given in ({}, {"text": " "}, {"text": "a", "like": "b"}, {"image": b"", "like": 0}):
        with pytest.raises(UserError, match="query"):
            Query(**given)
    index = indexed(tmp_path, whole(5))
    with pytest.raises(UserError, match="at least 1"):
        Searcher.open(index).search(Query(like=0), k=0)
    with pytest.raises(UserError, match="needs the model"):
        Searcher.open(index).search(Query(text="any"))
    with pytest.raises(UserError, match="embeds into"):
        Searcher.open(index, lambda: model_of(np.zeros((1, 3)))).search(Query(text="any"))
    with pytest.raises(UserError, match=r"has no index\.json"):
        Searcher.open(tmp_path)
