"""Length buckets: batches of texts of like length, of the same samples, each once an epoch."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from tests.shard_sets import described, numbered, with_lengths, write_shards
from tests.training_sets import TOKENIZER, batches, captions_of, numbers_of, training_set
from xmodal.data.chance import fraction
from xmodal.data.length_buckets import LengthBuckets
from xmodal.data.manifest import read_manifest
from xmodal.data.mixture import Mixture
from xmodal.data.tokens import CaptionTokenizer
from xmodal.errors import UserError


class Known:
    """Lengths of samples that are drawn at random, and of no file."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def drawn(self, number: int, drawn: float) -> int:
        return 1 + (number * 7919 + int(drawn * 2**20) * 104729 + self.seed) % 59


@st.composite
def cases(draw: st.DrawFn) -> tuple[Mixture, Mixture]:
    """A mixture with buckets, and the same without."""
    sets = draw(st.integers(1, 3))
    sizes = [draw(st.lists(st.integers(1, 30), min_size=1, max_size=4)) for _ in range(sets)]
    lanes, times = draw(st.integers(4 * sets, 20)), draw(st.integers(1, 3))
    seed, window = draw(st.integers(0, 9)), draw(st.integers(1, 20))
    buckets = LengthBuckets(
        [Known(number) for number in range(sets)], seed=seed, batch_size=lanes * times
    )
    bucketed, plain = (
        Mixture(sizes, [1.0] * sets, seed=seed, lanes=lanes, window=window, buckets=one)
        for one in (buckets, None)
    )
    return bucketed, plain


@given(cases(), st.integers(0, 300))
def test_a_block_has_the_same_entries_in_another_order(
    case: tuple[Mixture, Mixture], position: int
) -> None:
    bucketed, plain = case
    number, own = plain.own_position(position)
    _, index = plain.plans[number].block_at(own)
    start = position - index * plain.lanes
    one, other = bucketed.stretch_from(start), plain.stretch_from(start)
    found = zip(one.origins.tolist(), one.samples.tolist(), strict=True)
    wanted = zip(other.origins.tolist(), other.samples.tolist(), strict=True)
    assert sorted(found) == sorted(wanted)
    assert other.origins.tolist() == sorted(other.origins.tolist())
    # From amid a block, its rest comes.
    rest = bucketed.stretch_from(position)
    assert rest.origins.tolist() == one.origins.tolist()[index:]
    assert rest.samples.tolist() == one.samples.tolist()[index:]


@given(cases())
def test_every_sample_comes_once_an_epoch(case: tuple[Mixture, Mixture]) -> None:
    bucketed, _ = case
    plan = bucketed.plans[0]
    places = (bucketed.sample_at(position) for position in range(10**6))
    mine = (place.sample for place in places if place.data_set == 0)
    found = [next(mine) for _ in range(2 * plan.num_samples)]
    for epoch in (found[: plan.num_samples], found[plan.num_samples :]):
        assert sorted(epoch) == list(range(plan.num_samples))


def lengths_of(mixture: Mixture, of: Known, batch: int, steps: int) -> np.ndarray:
    """The lengths in the first batches, (steps, batch)."""
    found = np.zeros((steps, batch))
    for position in range(steps * batch):
        stretch = mixture.stretch_from(position)
        sample, origin = int(stretch.samples[0]), int(stretch.origins[0])
        found[divmod(position, batch)] = of.drawn(sample, fraction(0, origin))
    return found


def share(lengths: np.ndarray) -> float:
    """The share of texts in batches that are padded to their longest."""
    return float(lengths.sum() / (lengths.max(1) * lengths.shape[1]).sum())


@pytest.mark.parametrize("times", [1, 2])
def test_batches_have_texts_of_like_length(times: int) -> None:
    """Uniform lengths: half of a random batch is padding."""
    lanes, batch, of = 16, 16 * times, Known()
    buckets = LengthBuckets([of], seed=0, batch_size=batch)
    shares = {}
    for name, one in (("random", None), ("bucketed", buckets)):
        mixture = Mixture([[500] * 8], [1.0], seed=0, lanes=lanes, window=64, buckets=one)
        shares[name] = share(lengths_of(mixture, of, batch, 64 // times))
    assert shares["random"] < 0.57
    assert shares["bucketed"] > 0.68


def test_short_and_long_batches_alternate_in_every_stretch() -> None:
    buckets = LengthBuckets([Known()], seed=3, batch_size=8)
    targets = buckets._targets(np.arange(0, 8 * 1000, 8)) / 2.0**64
    for start in range(0, 984, 16):
        assert np.histogram(targets[start : start + 16], 4, (0, 1))[0].min() >= 3


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty images, each with captions of one to thirty words."""
    draws = np.random.default_rng(0)
    samples = {
        key: members | {"json": described(_sentences(draws), image_id=key)}
        for key, members in numbered(60).items()
    }
    folder = tmp_path_factory.mktemp("captioned")
    items = list(samples.items())
    with_lengths(write_shards(folder, [dict(items[:25]), dict(items[25:])]))
    return folder


def _sentences(draws: np.random.Generator) -> list[str]:
    return [" ".join("12345" for _ in range(draws.integers(1, 5))) for _ in range(5)]


def seen(folder: Path, steps: int, **options: object) -> Counter[tuple[object, ...]]:
    dataset = training_set(read_manifest(folder), window=10, crop=(0.2, 0.9), **options)
    rows: Counter[tuple[object, ...]] = Counter()
    for batch in batches(dataset, range(steps)):
        rows.update(
            (caption, image.numpy().tobytes(), number)
            for caption, image, number in zip(
                captions_of(batch), batch.images, numbers_of(batch), strict=True
            )
        )
    return rows


def test_samples_keep_their_captions_and_crops(captioned: Path) -> None:
    """Of whole epochs, all that comes is what comes without buckets."""
    assert seen(captioned, 10, bucketed=12) == seen(captioned, 10)


def test_texts_that_are_padded_alike_are_refused(captioned: Path) -> None:
    library = Tokenizer.from_str(TOKENIZER.tokenizer.to_str())
    library.enable_padding(length=12)
    with pytest.raises(UserError, match="pads all texts to method"):
        training_set(read_manifest(captioned), tokenizer=CaptionTokenizer(library, 12), bucketed=12)
