"""Mixed data sets: the weights hold in every stretch, each set keeps its own plan."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmodal.data.mixture import Mixture, Place, share_lanes
from xmodal.data.plan import Plan
from xmodal.errors import UserError

SIZES = st.lists(st.integers(1, 20), min_size=1, max_size=4)


@st.composite
def mixtures(draw: st.DrawFn) -> Mixture:
    sizes = draw(st.lists(SIZES, min_size=1, max_size=4))
    weights = draw(st.lists(st.floats(0.5, 2), min_size=len(sizes), max_size=len(sizes)))
    lanes = draw(st.integers(4 * len(sizes), 30))
    window = draw(st.integers(1, 12))
    return Mixture(sizes, weights, seed=draw(st.integers(0, 9)), lanes=lanes, window=window)


@given(mixtures(), st.integers(0, 1000))
def test_every_stretch_of_the_lanes_holds_the_shares(mixture: Mixture, start: int) -> None:
    found = Counter(
        mixture.sample_at(position).data_set for position in range(start, start + mixture.lanes)
    )
    assert [found[number] for number in range(len(mixture.plans))] == mixture.counts


@given(mixtures())
def test_each_set_follows_its_own_plan_without_gaps(mixture: Mixture) -> None:
    for number, plan in enumerate(mixture.plans):
        length = 3 * plan.num_samples
        mine = []
        position = 0
        while len(mine) < length:
            place = mixture.sample_at(position)
            mine += [place.sample] if place.data_set == number else []
            position += 1
        assert mine == [plan.sample_at(own) for own in range(length)]


@given(SIZES, st.integers(1, 20), st.integers(1, 12))
def test_one_set_alone_is_its_plan(sizes: list[int], lanes: int, window: int) -> None:
    mixture = Mixture([sizes], [3.0], seed=5, lanes=lanes, window=window)
    plan = Plan(sizes, seed=5, lanes=lanes, window=window)
    for position in range(2 * plan.num_samples):
        assert mixture.sample_at(position) == Place(0, plan.sample_at(position))
        assert [near.sample for near in mixture.neighbours(position, 2)] == [
            plan.sample_at(near) for near in plan.neighbours(position, 2)
        ]


def test_equal_sets_have_orders_of_their_own() -> None:
    mixture = Mixture([[50], [50]], [1, 1], seed=0, lanes=2, window=8)
    both = [mixture.sample_at(position) for position in range(100)]
    assert [p.sample for p in both if p.data_set] != [p.sample for p in both if not p.data_set]


@given(mixtures(), st.integers(0, 60), st.sampled_from([1, 2, 4]))
def test_a_lane_belongs_to_one_set(mixture: Mixture, lane: int, cycles: int) -> None:
    positions = [lane % mixture.lanes + cycle * mixture.lanes for cycle in range(cycles + 1)]
    assert len({mixture.sample_at(position).data_set for position in positions}) == 1


@pytest.mark.parametrize("ranks", [2, 4])
def test_each_rank_has_its_share_of_each_set(ranks: int) -> None:
    mixture = Mixture([[9], [9]], [3, 1], seed=0, lanes=16, window=4)
    for rank in range(ranks):
        found = [mixture.sample_at(position).data_set for position in range(rank, 16, ranks)]
        assert sum(found) == 4 // ranks


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=6), st.integers(1, 4))
def test_shares_are_as_near_as_whole_lanes_can_be(weights: list[float], factor: int) -> None:
    lanes = 400 * factor
    counts = share_lanes(weights, lanes)
    assert sum(counts) == lanes
    for count, weight in zip(counts, weights, strict=True):
        assert abs(count - weight / sum(weights) * lanes) < 1


def test_a_weight_below_half_a_lane_is_refused_with_the_lanes_it_needs() -> None:
    with pytest.raises(UserError, match=r"^data.train.1: weight 1 of 1000 .* to 500 or more$"):
        share_lanes([999, 1], 256)
    assert share_lanes([999, 1], 500) == [499, 1]
    with pytest.raises(UserError, match=r"less than half of one of 2 lanes"):
        share_lanes([1, 1, 1, 1, 1], 2)
