"""Nearest items in blocks against a sort of all scores."""

import numpy as np
import pytest
import torch

from tests.search.curation.sets import unit
from xmodal.search.curation import nearest
from xmodal.search.curation.nearest import nearest_in_blocks, others


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "BLOCK", 7)
    monkeypatch.setattr(nearest, "TILE", 5)


@pytest.mark.parametrize("k", [1, 4, 30])
def test_they_are_those_of_a_sort(k: int) -> None:
    a, b = (np.round(unit(n, 6, seed=n) * 2) for n in (20, 23))  # many equal scores
    blocks = list(nearest_in_blocks(torch.tensor(a), torch.tensor(b), k, "test"))
    scores = torch.cat([block.scores for block in blocks]).numpy()
    rows = torch.cat([block.rows for block in blocks]).numpy()
    assert (torch.cat([block.queries for block in blocks]) == torch.arange(20)).all()
    whole = a @ b.T
    assert (scores == -np.sort(-whole, 1)[:, :k]).all()
    assert (np.take_along_axis(whole, rows, 1) == scores).all()
    assert all(len({*row}) == min(k, 23) for row in rows.tolist())


def test_of_sets_of_embeddings_the_best_counts() -> None:
    a, b = unit(9, 3, 4), unit(11, 3, 4, seed=1)
    blocks = nearest_in_blocks(torch.tensor(a), torch.tensor(b), 1, "test")
    found = torch.cat([block.rows for block in blocks])[:, 0].numpy()
    assert (found == np.einsum("akd,bld->abkl", a, b).max((2, 3)).argmax(1)).all()


def test_an_item_is_not_its_own_neighbour() -> None:
    vectors = torch.tensor(unit(12, 5))
    blocks = list(nearest_in_blocks(vectors, vectors, 12, "test", others))
    pairs = [torch.stack(block.pairs(-2)[:2]) for block in blocks]
    i, j = torch.cat(pairs, 1)
    assert (i != j).all()
    assert len(i) == 12 * 11
    few = sum(len(block.pairs(0.5)[0]) for block in blocks)
    assert few == ((vectors @ vectors.T) >= 0.5).sum() - 12
