"""Nearest items in blocks against a sort of all scores."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.search.curation.sets import made_set, unit, write_set
from xmodal.search.build_index import build_index
from xmodal.search.curation import nearest
from xmodal.search.curation.nearest import nearest_in_blocks, others
from xmodal.search.embeddings import Embeddings
from xmodal.search.index_folder import Side
from xmodal.search.searcher import Searcher


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "BLOCK", 7)
    monkeypatch.setattr(nearest, "TILE", 5)


def side_of(folder: Path, vectors: np.ndarray) -> Side:
    return made_set(folder, vectors).sides["images"]


@pytest.mark.parametrize("k", [1, 4, 30])
def test_they_are_those_of_a_sort(k: int, tmp_path: Path) -> None:
    a, b = (np.round(unit(n, 6, seed=n) * 2) for n in (20, 23))  # many equal scores
    blocks = list(nearest_in_blocks(torch.tensor(a), side_of(tmp_path, b), k, "test"))
    scores = torch.cat([block.scores for block in blocks]).numpy()
    rows = torch.cat([block.rows for block in blocks]).numpy()
    assert (torch.cat([block.queries for block in blocks]) == torch.arange(20)).all()
    whole = a @ b.T
    assert (scores == -np.sort(-whole, 1)[:, :k]).all()
    assert (np.take_along_axis(whole, rows, 1) == scores).all()
    assert all(len({*row}) == min(k, 23) for row in rows.tolist())


def test_of_sets_of_embeddings_the_best_counts(tmp_path: Path) -> None:
    a, b = unit(9, 3, 4), unit(11, 3, 4, seed=1)
    blocks = nearest_in_blocks(torch.tensor(a), side_of(tmp_path, b), 1, "test")
    found = torch.cat([block.rows for block in blocks])[:, 0].numpy()
    assert (found == np.einsum("akd,bld->abkl", a, b).max((2, 3)).argmax(1)).all()


def test_an_item_is_not_its_own_neighbour(tmp_path: Path) -> None:
    side = side_of(tmp_path, unit(12, 5))
    vectors = side.vectors
    blocks = list(nearest_in_blocks(vectors, side, 12, "test", others))
    pairs = [torch.stack(block.pairs(-2)[:2]) for block in blocks]
    i, j = torch.cat(pairs, 1)
    assert (i != j).all()
    assert len(i) == 12 * 11
    few = sum(len(block.pairs(0.5)[0]) for block in blocks)
    assert few == ((vectors @ vectors.T) >= 0.5).sum() - 12


def test_an_approximate_index_is_used(tmp_path: Path) -> None:
    vectors = np.round(unit(300, 8) * 4) / 4
    build_index(
        Embeddings(write_set(tmp_path / "embeddings", vectors)),
        tmp_path / "index",
        "hnsw",
        10**9,
        print,
    )
    side = Searcher.open(tmp_path / "index").sides["images"]
    assert side.approximation is not None
    blocks = [*nearest_in_blocks(side.vectors, side, 5, "test", others)]
    scores = torch.cat([block.scores for block in blocks]).numpy()
    whole = vectors @ vectors.T - 99 * np.eye(300, dtype=np.float32)
    assert (scores == -np.sort(-whole, 1)[:, :5]).mean() > 0.97
    few = [*nearest_in_blocks(side.vectors, side, 400, "test", others)]
    assert (few[0].scores[:, -1] == -torch.inf).all()
