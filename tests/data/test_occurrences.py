"""Resampling: weights are the expected occurrences of samples in epochs of one size."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from xmodal.data.occurrences import Occurrences, epoch_size

WEIGHTS = st.lists(
    arrays(
        np.float32,
        st.integers(1, 12),
        elements=st.floats(2**-7, 40, width=32, allow_subnormal=False),
    ),
    min_size=1,
    max_size=6,
)
OFFSETS = st.integers(0, 2**24 - 1).map(lambda bits: bits * 2.0**-24)


def counts(occurrences: Occurrences, weights: list[np.ndarray], offset: float) -> np.ndarray:
    """Return the number of occurrences of each sample, (samples,)."""
    return np.concatenate(
        [
            np.bincount(occurrences.samples(shard, offset), minlength=len(of_shard))
            for shard, of_shard in enumerate(weights)
        ]
    )


@given(WEIGHTS, OFFSETS)
def test_all_epochs_are_of_one_size_and_each_sample_comes_as_often_as_its_weight_says(
    weights: list[np.ndarray], offset: float
) -> None:
    occurrences = Occurrences(weights)
    found = counts(occurrences, weights, offset)
    assert found.sum() == occurrences.num_entries == epoch_size(weights)
    sizes = [len(occurrences.samples(shard, offset)) for shard in range(len(weights))]
    assert occurrences.shard_sizes(offset).tolist() == sizes
    line = np.concatenate(weights).astype(np.float64)
    expected = line * occurrences.num_entries / line.sum()
    assert (np.abs(found - expected) < 1 + 1e-6).all()


@given(WEIGHTS)
def test_the_mean_over_epochs_is_the_weight(weights: list[np.ndarray]) -> None:
    occurrences = Occurrences(weights)
    offsets = (np.arange(500) + 0.5) / 500  # as random ones are in the long run
    mean = np.mean([counts(occurrences, weights, offset) for offset in offsets], axis=0)
    line = np.concatenate(weights).astype(np.float64)
    expected = line * occurrences.num_entries / line.sum()
    assert np.allclose(mean, expected, atol=0.005)


@given(WEIGHTS, OFFSETS)
def test_all_samples_of_a_shard_come_in_order_before_one_comes_again(
    weights: list[np.ndarray], offset: float
) -> None:
    occurrences = Occurrences(weights)
    for shard in range(len(weights)):
        found = occurrences.samples(shard, offset).tolist()
        again = [found[:place].count(sample) for place, sample in enumerate(found)]
        assert again == sorted(again)
        assert list(zip(again, found, strict=True)) == sorted(zip(again, found, strict=True))


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6), OFFSETS)
def test_samples_of_weight_one_come_once_as_without_weights(
    sizes: list[int], offset: float
) -> None:
    occurrences = Occurrences([np.ones(size, dtype=np.float32) for size in sizes])
    assert occurrences.num_entries == sum(sizes)
    for shard, size in enumerate(sizes):
        assert occurrences.samples(shard, offset).tolist() == list(range(size))


def test_samples_of_a_weight_so_small_that_none_comes_still_make_an_epoch() -> None:
    tiny = np.full(3, 1e-30, dtype=np.float32)
    occurrences = Occurrences([tiny, tiny])
    assert occurrences.num_entries == 1
    places = {
        (shard, sample)
        for offset in (0.1, 0.3, 0.45, 0.6, 0.8, 0.95)
        for shard in range(2)
        for sample in occurrences.samples(shard, offset).tolist()
    }
    assert places == {(shard, sample) for shard in range(2) for sample in range(3)}
