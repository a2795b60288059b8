"""Vote of the nearest neighbours, beside a walk through them in float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from xmodal.evaluation.metrics.knn import NEIGHBOURS, nearest, votes_of_nearest


def drawn(seed: int, test: int = 40, train: int = 90, classes: int = 5) -> tuple[Tensor, ...]:
    """Return unit vectors, many of them equal, and classes: some have two, training ones none."""
    generator = torch.Generator().manual_seed(seed)
    few = torch.randn(12, 4, generator=generator)
    places = (torch.randint(12, (count,), generator=generator) for count in (test, train))
    rows = [F.normalize(few[place] + 0.1 * (place % 2)[:, None]) for place in places]
    own = [torch.rand(count, classes, generator=generator) < 0.25 for count in (test, train)]
    own[0][torch.arange(test), torch.arange(test) % classes] = True
    return rows[0], own[0], rows[1], own[1]


def by_walking(test: Tensor, of_test: Tensor, train: Tensor, of_train: Tensor) -> list[list[bool]]:
    """Return whether each vote is right, item by item."""
    found = []
    for query, own in zip(test.double(), of_test.tolist(), strict=True):
        items = [
            (
                -math.fsum((query * item.double()).tolist()),
                any(a and b for a, b in zip(own, of, strict=True)),
                n,
            )
            for n, (item, of) in enumerate(zip(train, of_train.tolist(), strict=True))
        ]
        items.sort()
        found.append([vote_is_right(items[:k], of_train, own) for k in NEIGHBOURS])
    return found


def vote_is_right(near: list[tuple], of_train: Tensor, own: list[bool]) -> bool:
    votes = [0.0] * len(own)
    for minus_cosine, _, number in near:
        for one in of_train[number].nonzero()[:, 0].tolist():
            votes[one] += math.exp(-minus_cosine / 0.07)
    mine = max((vote for vote, is_own in zip(votes, own, strict=True) if is_own))
    others = max((vote for vote, is_own in zip(votes, own, strict=True) if not is_own), default=0)
    return mine > others * (1 + 1e-9)


@given(st.integers(0, 2**32))
@settings(max_examples=15, deadline=None)
def test_votes_are_those_of_a_walk(seed: int) -> None:
    given = drawn(seed)
    found = votes_of_nearest(*given, 48)
    assert found.bool().tolist() == by_walking(*given)


@pytest.mark.parametrize("count", [1, 3, 6])
def test_of_equally_near_items_the_irrelevant_come_first(count: int) -> None:
    scores = torch.tensor([[1.0, 2, 2, 2, 0, 2]])
    relevant = torch.tensor([[False, True, False, True, False, False]])
    assert nearest(scores, relevant, count)[0].tolist() == [2, 5, 1, 3, 0, 4][:count]
    assert nearest(scores[:, [0, 1, 4]], relevant[:, [0, 1, 4]], 20)[0].tolist() == [1, 0, 2]


def test_one_item_is_all_neighbours() -> None:
    test, train = torch.eye(2), torch.tensor([[1.0, 0]])
    of_test = torch.tensor([[True, False], [False, True]])
    found = votes_of_nearest(test, of_test, train, torch.tensor([[True, False]]), 48)
    assert found.tolist() == [[1, 1, 1], [0, 0, 0]]
