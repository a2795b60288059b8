"""The plan: each sample once an epoch, in an order that no number of ranks changes."""

import tracemalloc

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from xmodal.data.plan import Plan, rank_positions

SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=8)
plans = st.builds(
    Plan,
    SIZES,
    seed=st.integers(0, 2**32),
    lanes=st.integers(1, 40),
    window=st.integers(1, 80),
)


FIRST = [9, 1, 6, 20, 10, 2, 13, 17, 0, 4, 12, 16, 11, 3, 15, 18, 7, 5, 14, 19, 8]
EIGHTH = [12, 18, 1, 6, 13, 19, 10, 2, 15, 8, 11, 4, 14, 20, 9, 3, 16, 7, 0, 5, 17]


def epoch_of(plan: Plan, epoch: int) -> list[int]:
    start = epoch * plan.num_samples
    return [plan.sample_at(start + place) for place in range(plan.num_samples)]


@given(plans, st.integers(0, 5))
def test_every_sample_comes_once_an_epoch(plan: Plan, epoch: int) -> None:
    assert sorted(epoch_of(plan, epoch)) == list(range(plan.num_samples))


@given(plans, st.integers(0, 3))
def test_the_order_is_a_function_of_its_arguments(plan: Plan, epoch: int) -> None:
    again = Plan(plan.shard_sizes, seed=plan.seed, lanes=plan.lanes, window=plan.window)
    later = [again.sample_at(position) for position in range(7 * plan.num_samples)]
    start = epoch * plan.num_samples
    assert later[start : start + plan.num_samples] == epoch_of(plan, epoch)


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [
        tuple(epoch_of(Plan([40, 60, 50], seed=seed, lanes=4, window=16), epoch))
        for seed in range(4)
        for epoch in range(4)
    ]
    assert len(set(orders)) == 16
    assert tuple(range(150)) not in orders


def test_a_single_shard_has_another_order_each_epoch_too() -> None:
    plan = Plan([50], seed=0, lanes=1, window=10)
    assert epoch_of(plan, 0) != epoch_of(plan, 1)
    assert epoch_of(plan, 0) != list(range(50))


@given(
    plans,
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(0, 12),
)
def test_ranks_share_out_the_same_global_batch(
    plan: Plan, ranks: int, each: int, step: int
) -> None:
    size = ranks * each
    parts = [rank_positions(step, batch_size=size, rank=r, ranks=ranks) for r in range(ranks)]
    assert all(len(part) == each for part in parts)
    alone = rank_positions(step, batch_size=size, rank=0, ranks=1)
    assert list(alone) == list(range(step * size, (step + 1) * size))
    # Row i of rank r is row i * ranks + r of the global batch.
    assert [p for row in zip(*parts, strict=True) for p in row] == list(alone)


@given(plans, st.integers(1, 50), st.sampled_from([1, 2, 3, 4]))
def test_batches_follow_each_other_without_a_seam(plan: Plan, each: int, ranks: int) -> None:
    size, epochs = each * ranks, 2
    steps = -(-epochs * plan.num_samples // size)
    seen = [
        plan.sample_at(position)
        for step in range(steps)
        for position in rank_positions(step, batch_size=size, rank=0, ranks=1)
    ]
    assert len(seen) == steps * size
    for epoch in range(epochs):
        start = epoch * plan.num_samples
        assert sorted(seen[start : start + plan.num_samples]) == list(range(plan.num_samples))


@given(plans, st.integers(0, 3))
def test_a_lane_reads_windows_of_consecutive_samples(plan: Plan, epoch: int) -> None:
    order = np.array(epoch_of(plan, epoch))
    lanes = [order[lane :: plan.lanes] for lane in range(min(plan.lanes, plan.num_samples))]
    lengths = {len(lane) for lane in lanes}
    assert max(lengths) - min(lengths) <= 1
    start, breaks = epoch * plan.num_samples, 0
    for number, lane in enumerate(lanes):
        found = [plan.block_at(start + number + i * plan.lanes) for i in range(len(lane))]
        for block in dict.fromkeys(block for block, _ in found):
            inside = [i for i, (other, _) in enumerate(found) if other == block]
            # A block comes as one, from its first sample to its last.
            assert [found[i][1] for i in inside] == list(range(block.stop - block.start))
            assert inside == list(range(inside[0], inside[-1] + 1))
            assert len(inside) <= plan.window
            breaks += sum(np.diff(np.sort(lane[inside])) != 1)
    # A block is a run of the tars' order, but for where one shard ends and another begins.
    assert breaks <= len(plan.shard_sizes) - 1


def test_lanes_begin_their_blocks_apart() -> None:
    plan = Plan([6400], seed=1, lanes=64, window=20)
    begins = [
        next(i for i in range(1, 21) if plan.block_at(lane + i * 64)[1] == 0) for lane in range(64)
    ]
    assert len(set(begins)) > 12


def test_samples_travel_where_shards_are_of_one_size_too() -> None:
    """A perfect shuffle moves a sample by a third of the epoch."""
    plan = Plan([1000] * 16, seed=0, lanes=64, window=8)
    places = np.array([np.argsort(epoch_of(plan, epoch)) for epoch in range(6)])
    travelled = np.abs(np.diff(places, axis=0)) / plan.num_samples
    assert np.allclose(travelled.mean(axis=1), 1 / 3, atol=0.06)
    assert travelled.std() > 0.15  # not all alike: others meet in every epoch


def test_a_plan_is_the_same_for_ever() -> None:
    """Runs go on over years and versions: these numbers may not change."""
    plan = Plan([7, 5, 9], seed=42, lanes=4, window=3)
    assert epoch_of(plan, 0) == FIRST
    assert epoch_of(plan, 7) == EIGHTH


def test_memory_is_not_that_of_the_samples() -> None:
    plan = Plan([10_000] * 100_000, seed=0, lanes=256, window=64)
    tracemalloc.start()
    found = {plan.sample_at(position) for position in range(0, 10**9, 10**7 + 3)}
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == 100
    assert peak < 20e6


@given(plans, st.data(), st.integers(1, 10))
def test_neighbours_are_of_the_same_epoch_in_the_lane_then_beside_it_nearest_first(
    plan: Plan, data: st.DataObject, reach: int
) -> None:
    position = data.draw(st.integers(0, 4 * plan.num_samples - 1))
    epoch, place = divmod(position, plan.num_samples)
    found = plan.neighbours(position, reach)
    places = [other - epoch * plan.num_samples for other in found]
    assert len(set(places)) == len(places)
    assert place not in places
    assert all(0 <= other < plan.num_samples for other in places)
    in_lane = min(reach, place // plan.lanes)
    in_lane += min(reach, (plan.num_samples - 1 - place) // plan.lanes)
    for stride, part in ((plan.lanes, places[:in_lane]), (1, places[in_lane:])):
        distances = [abs(other - place) / stride for other in part]
        assert distances == sorted(distances)
        assert all(distance in range(1, reach + 1) for distance in distances)
    near = range(max(0, place - reach), min(plan.num_samples, place + reach + 1))
    assert set(near) - {place} <= set(places)


def test_a_sample_that_has_its_lane_to_itself_has_the_lanes_beside_it() -> None:
    plan = Plan([3, 2], seed=0, lanes=64, window=8)
    assert plan.neighbours(7, reach=2) == [6, 8, 5, 9]
    assert Plan([1], seed=0, lanes=4, window=1).neighbours(3, reach=8) == []
