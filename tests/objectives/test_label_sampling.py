import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.objectives.label_sampling_cases import listed
from xmodal.data.plan import rank_positions
from xmodal.objectives.double_triplet import DoubleTriplet
from xmodal.objectives.label_sampling import batch_order, sample_triplets
from xmodal.objectives.soft_triplet import SoftTriplet

label_lists = st.lists(st.integers(-(2**62), -(2**62) + 4), min_size=1, max_size=20)


@settings(deadline=None)
@given(label_lists, label_lists, st.integers(1, 4), st.integers(0, 2**63 - 1))
def test_every_anchor_that_can_has_its_triplets(
    labels: list[int], candidates: list[int], count: int, seed: int
) -> None:
    drawn = sample_triplets(torch.tensor(labels), torch.tensor(candidates), count=count, seed=seed)
    for a, p, n in listed(drawn):
        assert labels[a] == candidates[p]
        assert labels[a] != candidates[n]
    able = [a for a, label in enumerate(labels) if 0 < candidates.count(label) < len(candidates)]
    assert [a for a, _, _ in listed(drawn)] == [a for a in able for _ in range(count)]


@settings(deadline=None)
@given(label_lists, st.integers(1, 4), st.integers(0, 2**63 - 1))
def test_an_item_is_never_its_own_positive(labels: list[int], count: int, seed: int) -> None:
    items = torch.tensor(labels)
    drawn = sample_triplets(items, items, count=count, seed=seed, same_items=True)
    for a, p, n in listed(drawn):
        assert a != p
        assert labels[a] == labels[p] != labels[n]
    able = [a for a, label in enumerate(labels) if 1 < labels.count(label) < len(labels)]
    assert [a for a, _, _ in listed(drawn)] == [a for a in able for _ in range(count)]


def shares(values: Tensor, size: int) -> Tensor:
    return torch.bincount(values, minlength=size) / len(values)


def test_positives_and_negatives_are_drawn_alike_often() -> None:
    labels = torch.tensor([2, 0, 1, 0, 2, 2, 0, 2, 1])
    drawn = sample_triplets(labels, labels, count=40_000, seed=1, same_items=True)
    for anchor, label in enumerate(labels):
        for name, right in {"positives": labels == label, "negatives": labels != label}.items():
            right = right & (torch.arange(9) != anchor)
            got = shares(getattr(drawn, name)[anchor], 9)
            # A share of 40,000 draws has a standard deviation of at most 0.0025.
            torch.testing.assert_close(got, right / right.sum(), rtol=0, atol=0.012)


def test_an_anchor_that_is_no_candidate_may_have_every_one_of_its_label() -> None:
    drawn = sample_triplets(torch.tensor([1]), torch.tensor([1, 0, 1, 1, 0]), count=40_000, seed=2)
    third = torch.tensor([1, 0, 1, 1, 0]) / 3
    torch.testing.assert_close(shares(drawn.positives[0], 5), third, rtol=0, atol=0.012)


def test_a_triplets_positive_says_nothing_of_its_negative() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1])
    drawn = sample_triplets(labels, labels, count=40_000, seed=3, same_items=True)
    both = drawn.positives[0] * 5 + drawn.negatives[0]
    assert shares(both, 15)[[8, 9, 13, 14]].sub(0.25).abs().max() < 0.012


def test_the_seed_is_all_that_changes_them() -> None:
    labels = torch.arange(50) % 7

    def draw(seed: int) -> list[int]:
        torch.manual_seed(seed + 1)  # of no influence, nor influenced
        before = torch.random.get_rng_state()
        drawn = sample_triplets(labels, labels, count=3, seed=seed)
        assert torch.equal(torch.random.get_rng_state(), before)
        return torch.stack([drawn.positives, drawn.negatives]).tolist()

    assert draw(0) == draw(0) != draw(1)


def test_what_the_loader_deals_to_ranks_is_put_in_order_again() -> None:
    ranks = 4
    gathered = [
        position
        for rank in range(ranks)
        for position in rank_positions(3, batch_size=12, rank=rank, ranks=ranks)
    ]
    assert torch.tensor(gathered)[batch_order([3] * ranks, torch.device("cpu"))].tolist() == list(
        range(36, 48)
    )


def random_pairs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 6, 3, generator=generator, dtype=torch.float64)
    return x, y


@pytest.mark.parametrize("loss", [DoubleTriplet(), SoftTriplet()])
def test_the_slope_agrees_with_finite_differences(loss: DoubleTriplet | SoftTriplet) -> None:
    labels = torch.tensor([0, 1, 0, 1, 2, 0])
    x, y = (side.requires_grad_() for side in random_pairs())
    assert torch.autograd.gradcheck(lambda x, y: loss(x, y, labels, 7), (x, y))


def test_double_triplet_by_hand() -> None:
    """Both directions have one triplet an anchor: of two labels, each with one pair."""
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.5], [3.0]])
    labels = torch.arange(2)
    # Image to text 1 + 0.25 − 9 and 1 + 4 − 0.25; text to image 1 + 0.25 − 0.25 and 1 + 4 − 9.
    value = DoubleTriplet()(x, y, labels, 0)
    assert value.item() == pytest.approx((0 + 4.75) / 4 + (1 + 0) / 4)
    value = DoubleTriplet(positive_weight=2, margin=0.5)(x, y, labels, 0)
    assert value.item() == pytest.approx((0 + 8.25 + 0.75 + 0) / 4)


def test_soft_triplet_by_hand() -> None:
    """Queries and targets of two labels: a query's positive is its target, and the other way."""
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [1.0]])
    value = SoftTriplet(count=5)(x, y, torch.arange(2), 0)
    assert value.item() == pytest.approx(torch.tensor(-1.0).exp().log1p().item())


@pytest.mark.parametrize("loss", [DoubleTriplet(), SoftTriplet()])
def test_without_another_label_there_is_nothing_to_learn(
    loss: DoubleTriplet | SoftTriplet,
) -> None:
    x, y = (side.requires_grad_() for side in random_pairs())
    value = loss(x, y, torch.zeros(6, dtype=torch.int64), 0)
    value.backward()
    assert value == 0
    assert not x.grad.any()
