"""Approximate indices: recall on clustered vectors, filters, memory, and the same index again."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.search.embedding_folders import image_record, write_embeddings
from xmodal.errors import UserError
from xmodal.search import approximate, build_index, inverted_lists, ivf
from xmodal.search.embeddings import Embeddings
from xmodal.search.index_folder import IndexFolder, Kind
from xmodal.search.query import Query
from xmodal.search.searcher import Searcher

ROWS, DIM = 2000, 16
MEMORY = 2**28


@pytest.fixture(autouse=True)
def few_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure recall with few queries."""
    monkeypatch.setattr("xmodal.search.recall.MOST", 50)


def clustered(rows: int, each: int = 1) -> np.ndarray:
    """Vectors of length 1 about 40 centres, (rows, DIM) or (rows, K, DIM)."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(40, DIM))
    shape = (rows, each, DIM)
    found = centres[random.integers(40, size=rows)][:, None] + 0.5 * random.normal(size=shape)
    found = (found / np.linalg.norm(found, axis=2, keepdims=True)).astype(np.float32)
    return found[:, 0] if each == 1 else found


def written(folder: Path, vectors: np.ndarray) -> Embeddings:
    """Embeddings of images alone, in two parts, labelled by their number's remainder."""
    records = [
        image_record(str(n), labels=["odd" if n % 2 else "even"], width=n)
        for n in range(len(vectors))
    ]
    half = len(vectors) // 3
    parts = [(vectors[:half], records[:half]), (vectors[half:], records[half:])]
    return Embeddings(write_embeddings(folder, parts, texts=False, dtype="float16"))


def built(embeddings: Embeddings, target: Path, kind: Kind, memory: int = MEMORY) -> list[str]:
    lines: list[str] = []
    build_index.build_index(embeddings, target, kind, memory, lines.append)
    return lines


def nearest(vectors: np.ndarray, row: int, k: int, allowed: np.ndarray | None = None) -> list[int]:
    """Return the nearest rows to a row, without itself, by all scores."""
    stored = vectors.astype(np.float16).astype(np.float64).reshape(len(vectors), -1, DIM)
    scores = np.einsum("nkd,md->nkm", stored, stored[row]).max((1, 2))
    order = np.argsort(-scores, kind="stable")
    allowed = np.ones(len(vectors), bool) if allowed is None else allowed
    return [int(one) for one in order if allowed[one] and one != row][:k]


def agreement(searcher: Searcher, vectors: np.ndarray, where: str | None = None) -> float:
    """Return the share of the nearest ten of some rows that are found."""
    allowed = np.arange(len(vectors)) % 2 == 1 if where else None
    found = 0
    for row in range(0, len(vectors), len(vectors) // 25):
        hits = searcher.search(Query(like=row), k=10, where=where)
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        found += len({hit.row for hit in hits} & {*nearest(vectors, row, 10, allowed)})
    return found / 250


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
@pytest.mark.parametrize("each", [1, 3])
def test_recall_is_as_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind, each: int
) -> None:
    monkeypatch.setattr(approximate, "FEW", 20)  # or a filter's rows are all compared
    vectors = clustered(ROWS // each, each)
    lines = built(written(tmp_path / "e", vectors), tmp_path / "i", kind)
    approximation = IndexFolder.open(tmp_path / "i").info.sides["images"].approximation
    assert approximation is not None
    assert approximation.recall["images"] >= 0.98
    name = "nprobe" if kind == "ivf" else "efSearch"
    assert f"{approximation.factory} with {name} {approximation.effort}" in lines[0]
    assert f"recall@10 against exact search {approximation.recall['images']:.3f}" in lines[1]
    searcher = Searcher.open(tmp_path / "i")
    assert agreement(searcher, vectors) >= 0.95
    assert agreement(searcher, vectors, "label = 'odd'") >= 0.95
    # Pages of one search follow each other.
    pages = [searcher.search(Query(like=0), k=20, start=n) for n in (0, 20, 40)]
    whole = searcher.search(Query(like=0), k=60)
    assert [hit.row for page in pages for hit in page] == [hit.row for hit in whole]
    few = searcher.search(Query(like=0), k=10, where="width IN (3, 5, 7)")
    assert {hit.row for hit in few} == {3, 5, 7}
    assert searcher.search(Query(like=0), k=10, where="width < 0") == []


def test_the_same_embeddings_give_the_same_index(tmp_path: Path) -> None:
    embeddings = written(tmp_path / "e", clustered(ROWS))
    for kind in ("ivf", "hnsw"):
        for name in ("first", "second"):
            built(embeddings, tmp_path / kind / name, kind)
        for file in (tmp_path / kind / "first").iterdir():
            assert file.read_bytes() == (tmp_path / kind / "second" / file.name).read_bytes()


def test_blocks_that_do_not_fit_into_memory_are_merged_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embeddings = written(tmp_path / "e", clustered(ROWS))
    built(embeddings, tmp_path / "whole", "ivf")
    monkeypatch.setattr(ivf, "CHUNK", 4 * DIM * 700)  # of 700 rows
    flushed = []

    class Small(inverted_lists.Blocks):
        def flush(self) -> None:
            flushed.append(self.index.ntotal)
            super().flush()

    monkeypatch.setattr(ivf, "Blocks", Small)
    monkeypatch.setattr(ivf, "_held", lambda *_: 1000)
    built(embeddings, tmp_path / "parts", "ivf")
    assert flushed == [1400, 600]
    for file in (tmp_path / "whole").iterdir():
        assert file.read_bytes() == (tmp_path / "parts" / file.name).read_bytes()
    assert not (tmp_path / "parts" / "blocks").exists()


def test_the_code_is_chosen_from_memory_and_size(tmp_path: Path) -> None:
    def factory(vectors: int, dim: int, memory: float) -> str | None:
        plan = ivf.plan_ivf(vectors, dim, int(memory))
        return plan and plan.factory

    assert factory(10**6, 512, 4e9) == "IVF4096,SQ8"
    assert factory(10**7, 512, 4e9) == "IVF4096,PQ128x8"
    assert factory(10**7, 512, 20e9) == "IVF16384,SQ8"
    assert factory(10**6, 512, 5e8) == "IVF512,PQ128x8"
    assert factory(10**9, 512, 5e8) == "IVF512,PQ16x8"
    assert factory(79, 512, 4e9) is None
    assert factory(80, 512, 4e9) == "IVF2,SQ8"


def test_product_quantisation_is_scored_again_by_the_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = clustered(ROWS)
    plan = ivf.IvfPlan(16, 8)
    monkeypatch.setattr(build_index, "plan_ivf", lambda *_: plan)
    lines = built(written(tmp_path / "e", vectors), tmp_path / "i", "ivf")
    assert "IVF16,PQ8x8" in lines[0]
    searcher = Searcher.open(tmp_path / "i")
    assert agreement(searcher, vectors) >= 0.95
    (hit,) = searcher.search(Query(like=0), k=1)
    stored = torch.from_numpy(vectors.astype(np.float16)).double()
    assert hit.score == pytest.approx(float(stored[0] @ stored[hit.row]), rel=1e-12)


def test_graphs_that_do_not_fit_are_refused_before_the_work(tmp_path: Path) -> None:
    embeddings = written(tmp_path / "e", clustered(ROWS))
    with pytest.raises(UserError, match=r"hnsw of 2,000 vectors takes about .* GB of memory; give"):
        built(embeddings, tmp_path / "i", "hnsw", 10**5)
    assert not (tmp_path / "i").exists()


def test_too_few_vectors_are_searched_exactly(tmp_path: Path) -> None:
    vectors = clustered(50)
    lines = built(written(tmp_path / "e", vectors), tmp_path / "i", "ivf")
    assert lines[0] == "images: 50 rows of 16 numbers, exact search"
    hits = Searcher.open(tmp_path / "i").search(Query(like=0), k=10)
    assert [hit.row for hit in hits] == nearest(vectors, 0, 10)


def test_damaged_indices_are_one_line(tmp_path: Path) -> None:
    built(written(tmp_path / "e", clustered(ROWS)), tmp_path / "i", "ivf")
    built(written(tmp_path / "f", clustered(ROWS // 2)), tmp_path / "j", "ivf")
    lists, graph = tmp_path / "i" / "images.lists", tmp_path / "i" / "images.faiss"
    kept = lists.read_bytes()
    for damaged in (kept[:-1], kept[:1000], b"", kept + b"more"):
        lists.write_bytes(damaged)
        with pytest.raises(UserError, match=r"images\.lists is damaged \([0-9,]+ bytes") as raised:
            Searcher.open(tmp_path / "i")
        assert "\n" not in str(raised.value)
    lists.unlink()
    with pytest.raises(UserError, match=r"images\.lists is damaged \(it is missing\)"):
        Searcher.open(tmp_path / "i")
    for name in ("images.faiss", "images.lists"):
        shutil.copy(tmp_path / "j" / name, tmp_path / "i" / name)
    with pytest.raises(UserError, match=rf"images\.faiss is damaged \({ROWS // 2} vectors of 16"):
        Searcher.open(tmp_path / "i")
    graph.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"images\.faiss is damaged"):
        Searcher.open(tmp_path / "i")
    graph.unlink()
    with pytest.raises(UserError, match=r"images\.faiss is damaged"):
        Searcher.open(tmp_path / "i")
