"""Scores of pairs, outliers, confused pairs and hard negatives against loops over all samples."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from tests.search.curation.sets import made_set, unit
from xmodal.errors import UserError
from xmodal.search.curation import hardest
from xmodal.search.curation.clip_score import clip_score
from xmodal.search.curation.confused import confused
from xmodal.search.curation.mine import HARD, SCHEMA, mine
from xmodal.search.curation.outliers import outliers
from xmodal.search.curation.sample_scores import SampleScores
from xmodal.search.searcher import Searcher

ROWS = 23
OWNERS = sorted([*range(ROWS), 3, 3, 7, 11, 22])
OWNERS.remove(5)  # an image without a caption
WORDS = ["the same" if n in (2, 9) else f"caption {n}" for n in range(len(OWNERS))]
IDS = [f"image {row if row != 15 else 14}" for row in range(ROWS)]


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardest, "BLOCK", 6)
    monkeypatch.setattr(hardest, "TILE", 7)


@pytest.fixture(params=[(), (3,)], ids=["one embedding", "three embeddings"])
def searcher(tmp_path: Path, request: pytest.FixtureRequest) -> Searcher:
    images, texts = (unit(n, *request.param, 6, seed=n) for n in (ROWS, len(OWNERS)))
    captions = list(zip(OWNERS, WORDS, strict=True))
    return made_set(tmp_path, images, texts, captions, image_id=IDS)


def pair_scores(searcher: Searcher) -> np.ndarray:
    """Scores of every image with every caption, (images, captions)."""
    a, b = (searcher.sides[side].vectors for side in ("images", "texts"))
    a, b = (x[:, None] if x.ndim == 2 else x for x in (a, b))
    scores: np.ndarray = torch.einsum("akd,bld->abkl", a, b).amax((2, 3)).numpy()
    return scores


def sample_score(scores: np.ndarray, image: int, sample: int) -> float:
    return max((scores[image, n] for n, row in enumerate(OWNERS) if row == sample), default=-np.inf)


def is_relevant(i: int, j: int) -> bool:
    said = [{WORDS[n] for n, row in enumerate(OWNERS) if row == one} for one in (i, j)]
    return i == j or IDS[i] == IDS[j] or bool(said[0] & said[1])


def hardest_of(scores: np.ndarray, i: int, side: str, k: int, limit: float) -> list[float]:
    others = [j for j in range(ROWS) if not is_relevant(i, j)]
    found = [
        sample_score(scores, j, i) if side == "images" else sample_score(scores, i, j)
        for j in others
    ]
    return sorted((one for one in found if -np.inf < one <= limit), reverse=True)[:k]


@pytest.mark.parametrize("margin", [-2.0, 0.0, 0.2])
def test_mined_are_the_hardest_false_samples(
    searcher: Searcher, margin: float, tmp_path: Path
) -> None:
    mine(searcher, 4, margin, tmp_path)
    table = pq.read_table(tmp_path / HARD)
    assert table.schema == SCHEMA
    scores = pair_scores(searcher)
    relevant = 0
    for i, row in enumerate(table.to_pylist()):
        own = sample_score(scores, i, i)
        assert (row["shard"], row["key"]) == ("000000.tar", f"k{i}")
        assert row["score"] == (None if own == -np.inf else pytest.approx(own, abs=1e-6))
        for side in ("images", "texts"):
            found = [one["score"] for one in row[side]]
            limit = own - margin
            assert found == pytest.approx(hardest_of(scores, i, side, 4, limit), abs=1e-6)
            numbers = [int(one["key"][1:]) for one in row[side]]
            assert len({*numbers}) == len(numbers)
            assert not any(is_relevant(i, j) for j in numbers)
            relevant += sum(is_relevant(i, j) for j in range(ROWS))
    assert relevant > 2 * ROWS  # some besides the samples themselves


def test_clip_scores_are_those_of_each_caption(searcher: Searcher) -> None:
    scores = pair_scores(searcher)
    own = np.array([sample_score(scores, i, i) for i in range(ROWS)])
    outcome = clip_score(searcher, 0.1, None)
    table = outcome.tables["scores"].to_pylist()
    assert [row["caption"] for row in table] == WORDS
    assert [row["key"] for row in table] == [f"k{row}" for row in OWNERS]
    naive = [scores[row, n] for n, row in enumerate(OWNERS)]
    assert [row["score"] for row in table] == pytest.approx(naive, abs=1e-6)
    assert outcome.kept is not None
    assert (outcome.kept == (own >= 0.1)).all()
    best = clip_score(searcher, None, 0.3).kept
    assert best is not None
    assert {*np.flatnonzero(best)} == {*np.argsort(-own)[:7]}


def test_confused_are_the_greatest_margins(searcher: Searcher) -> None:
    scores = pair_scores(searcher)
    margins = {
        i: hardest_of(scores, i, "texts", 1, np.inf)[0] - sample_score(scores, i, i)
        for i in range(ROWS)
        if i in OWNERS
    }
    outcome = confused(searcher, 5)
    rows = outcome.tables["pairs"].to_pylist()
    worst = sorted(margins, key=lambda i: -margins[i])[:5]
    assert [row["key"] for row in rows] == [f"k{i}" for i in worst]
    assert [row["margin"] for row in rows] == pytest.approx([margins[i] for i in worst], abs=1e-6)
    assert not any(is_relevant(int(row["key"][1:]), int(row["other_key"][1:])) for row in rows)
    assert outcome.kept is not None
    assert {*np.flatnonzero(~outcome.kept)} == {i for i in worst if margins[i] > 0}


def test_outliers_are_far_from_their_neighbours(tmp_path: Path) -> None:
    vectors = unit(1, 16) + 0.1 * unit(50, 16, seed=1)
    vectors[[7, 30]] = unit(2, 16, seed=2)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    searcher = made_set(tmp_path, vectors)
    outcome = outliers(searcher, 5, 3.0, None)
    similarity = np.sort(vectors @ vectors.T - 9 * np.eye(50), 1)[:, ::-1][:, :5]
    distance = outcome.tables["distances"]["distance"].to_numpy()
    assert distance == pytest.approx(1 - similarity.mean(1), abs=1e-6)
    assert outcome.kept is not None
    assert {7, 30} <= {*np.flatnonzero(~outcome.kept)}
    dropped = outliers(searcher, 5, 3.0, 0.1).kept
    assert dropped is not None
    assert {*np.flatnonzero(~dropped)} == {*np.argsort(-distance)[:5]}


def test_images_alone_have_no_pairs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no texts: embed images with their captions"):
        SampleScores(made_set(tmp_path, unit(3, 4)))
