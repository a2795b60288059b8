"""The study of padding counts what batches are padded with."""

import numpy as np
import pytest

from benchmarks.padding import BATCH, Known, Texts, draw, padding, read
from tests.shard_sets import numbered, with_lengths, write_shards


def test_texts_of_one_length_have_no_padding() -> None:
    known = Known([[7, 7]] * 600)
    for buckets in (False, True):
        found = padding(Texts([300, 300], known, known), 64, 32, buckets=buckets)
        assert found == (1.0, 7 * BATCH)


def test_padding_is_to_the_longest_of_a_batch() -> None:
    """Half of the texts are twice as long: in random batches a quarter is padding."""
    known = Known([[1 + number % 2] for number in range(4 * BATCH)])
    texts = Texts([4 * BATCH], known, known)
    assert padding(texts, 64, 16, buckets=False) == (0.75, 2 * BATCH)


def test_buckets_cut_it() -> None:
    known = Known([[1 + number * 7919 % 100] for number in range(16 * BATCH)])
    texts = Texts([16 * BATCH], known, known)
    plain, bucketed = (padding(texts, 64, 64, buckets=one) for one in (False, True))
    assert bucketed.computed < 0.8 * plain.computed
    assert bucketed.texts > 1.2 * plain.texts


def test_texts_of_the_web_are_mostly_padding() -> None:
    lengths = np.array(draw(512).known.lengths)  # type: ignore[attr-defined]
    assert np.median(lengths) == pytest.approx(74, abs=2)
    assert lengths.max() == 512


def test_captions_are_counted_in_tokens(tmp_path) -> None:
    texts = read(with_lengths(write_shards(tmp_path, [numbered(5), numbered(4)])), 8)
    assert texts.sizes == [5, 4]
    assert texts.known.drawn(0, 0.0) == 3  # bytes of "0 0"
    assert 2 <= texts.tokens.drawn(0, 0.0) <= 5
