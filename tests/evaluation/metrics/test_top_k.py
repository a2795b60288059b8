"""The best items of each query, against a stable sort of all exact scores."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xmodal.evaluation.metrics import top_k as module
from xmodal.evaluation.metrics.top_k import top_k
from xmodal.methods.scores import DotProduct, dot_product
from xmodal.models.exact import exact_product


@settings(deadline=None, max_examples=60)
@given(
    num_queries=st.integers(1, 60),
    num_items=st.integers(1, 300),
    k=st.integers(1, 12),
    tile=st.sampled_from([1, 100, 2048]),
    seed=st.integers(0, 2**32 - 1),
)
def test_top_k_is_the_head_of_a_stable_sort(
    num_queries: int, num_items: int, k: int, tile: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randint(-2, 3, (num_queries, 3), generator=generator).float()
    items = torch.randint(-2, 3, (num_items, 3), generator=generator).float()
    scores, indices = top_k(queries, items, k, tile=tile)
    full = (queries @ items.T).numpy()
    expected = np.argsort(-full, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_array_equal(scores, np.take_along_axis(full, expected, 1))


def by_sorting(queries: Tensor, items: Tensor, k: int, gone: Tensor | None = None) -> list[Tensor]:
    """Return what `top_k` does, by a stable sort of all exact scores."""
    scores = exact_product(queries, items)
    if gone is not None:
        scores = scores.masked_fill(gone, -math.inf)
    order = scores.sort(dim=1, descending=True, stable=True).indices[:, :k]
    return [scores.gather(1, order), order]


def near_ties(count: int, distinct: int, seed: int, dtype: torch.dtype) -> Tensor:
    """Vectors that float32 cannot tell from each other, some of which are equal."""
    generator = torch.Generator().manual_seed(seed)
    middle = torch.randn(1, 64, generator=generator)
    vectors = middle + 1e-6 * torch.randn(distinct, 64, generator=generator)
    return vectors[torch.randint(distinct, (count,), generator=generator)].to(dtype)


@settings(deadline=None, max_examples=60)
@given(
    num_queries=st.integers(1, 70),
    num_items=st.integers(1, 700),
    distinct=st.sampled_from([1, 3, 700]),
    k=st.sampled_from([1, 2, 10, 60, 1000]),
    tile=st.sampled_from([1, 100, 2048]),
    removed=st.sampled_from([0.0, 0.5, 0.99, 1.0]),
    is_half=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_near_ties_are_decided_by_exact_scores(
    num_queries: int,
    num_items: int,
    distinct: int,
    k: int,
    tile: int,
    removed: float,
    is_half: bool,
    seed: int,
) -> None:
    queries = near_ties(num_queries, 5, seed, torch.float32)
    items = near_ties(num_items, distinct, seed, torch.float16 if is_half else torch.float32)
    generator = torch.Generator().manual_seed(seed)
    gone = torch.rand(num_queries, num_items, generator=generator) < removed
    found = top_k(queries, items, k, tile=tile, removed=lambda rows: gone[rows])
    for one, expected in zip(found, by_sorting(queries, items, k, gone), strict=True):
        assert torch.equal(one, expected)
    for one, expected in zip(
        top_k(queries, items, k, tile=tile), by_sorting(queries, items, k), strict=True
    ):
        assert torch.equal(one, expected)


def test_only_what_may_be_among_the_best_is_scored_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    decided = []

    class Watched(DotProduct):
        def chosen(self, rows: Tensor, columns: Tensor, i: Tensor, j: Tensor) -> Tensor:
            decided.append(len(i))
            return super().chosen(rows, columns, i, j)

        def exact(self, rows: Tensor, columns: Tensor) -> Tensor:
            assert len(columns) <= 500, "a whole tile is not needed"
            return super().exact(rows, columns)

    generator = torch.Generator().manual_seed(0)
    queries, items = (torch.randn(n, 64, generator=generator) for n in (50, 20_000))
    found = top_k(queries, items, 10, Watched(), tile=1008)
    assert torch.equal(found[1], by_sorting(queries, items, 10)[1])
    assert sum(decided) <= 50 * 12


def test_ties_beyond_memory_are_decided_tile_by_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    widths = []

    def pruned(kept: module.Kept, k: int, error: float) -> module.Kept:
        widths.append(kept[0].shape[1])
        return plain(kept, k, error)

    plain = module._pruned
    monkeypatch.setattr(module, "_pruned", pruned)
    items = torch.ones(5000, 16)
    _, found = top_k(torch.ones(3, 16), items, 7, dot_product, tile=480)
    assert found.tolist() == [list(range(7))] * 3
    assert max(widths) <= 4 * 7 + module.GROUP
