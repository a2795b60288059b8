"""What a method's batches hold of each sample: composed queries, two captions, none, labels."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.shard_sets import Members, described, encode, number_of, numbered, plain, write_shards
from tests.training_sets import (
    BATCH,
    TOKENIZER,
    assert_same,
    batches,
    captions_of,
    npy,
    numbers_of,
    training_set,
)
from xmodal.data.batch import Batch, BatchSpec
from xmodal.data.reader import SampleReader
from xmodal.data.sample_spec import SampleSpec, infer_sample_spec
from xmodal.data.samples import hash_id
from xmodal.data.training_set import TrainingSet
from xmodal.errors import UserError

COMPOSED = BatchSpec(composed=True)
VIEWS = BatchSpec(views=2, captions=2)
TARGETS = 1000  # what is added to a source's number in its target's


def queries(count: int, side: int = 8) -> dict[str, Members]:
    """Sources that say their number, and the targets that their modifications ask for."""
    return {
        f"{n:05d}": {
            "source.png": encode(plain(n, (side, side))),
            "target.png": encode(plain(TARGETS + n, (side, side))),
            "json": described(
                [f"{n} 9"], modification=f"{n} {n}", source_id=f"i{n}", target_id=f"i{TARGETS + n}"
            ),
        }
        for n in range(count)
    }


def wanted(dataset: TrainingSet, steps: range) -> list[list[int]]:
    """The numbers of the samples of each batch."""
    sample_at = dataset.mixture.sample_at
    return [[sample_at(step * BATCH + row).sample for row in range(BATCH)] for step in steps]


# Composed queries.


@pytest.mark.parametrize("workers", [0, 2])
def test_a_query_is_a_source_a_modification_and_its_target(tmp_path: Path, workers: int) -> None:
    dataset = training_set(write_shards(tmp_path, [queries(30)]), contents=COMPOSED)
    steps = range(4)
    for numbers, batch in zip(
        wanted(dataset, steps), batches(dataset, steps, workers=workers), strict=True
    ):
        assert numbers_of(batch) == numbers
        assert [number_of(image) for image in batch.targets] == [TARGETS + n for n in numbers]
        assert captions_of(batch) == [f"{n} {n}" for n in numbers]
        assert batch.image_ids.tolist() == [hash_id(f"i{TARGETS + n}") for n in numbers]
        assert batch.source_ids.tolist() == [hash_id(f"i{n}") for n in numbers]
        assert batch.targets.is_contiguous(memory_format=torch.channels_last)
        assert batch.second_images is None
        assert batch.faults == ()


def test_source_and_target_are_cropped_apart_and_alike_each_time(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(256, size=(24, 30, 3), dtype=np.uint8)
    samples = {
        key: members | {f"{role}.png": encode(pixels) for role in ("source", "target")}
        for key, members in queries(30).items()
    }
    manifest = write_shards(tmp_path, [samples])
    first, again = (
        batches(training_set(manifest, contents=COMPOSED, crop=(0.2, 0.9), flip=True), range(3))
        for _ in range(2)
    )
    for one, other in zip(first, again, strict=True):
        assert_same(one, other)
        assert (one.images != one.targets).flatten(1).any(1).all()


def test_texts_of_a_query_may_be_drawn_too(tmp_path: Path) -> None:
    options = [{"texts": {"modification": 1.0, "captions": 3.0}}]
    dataset = training_set(
        write_shards(tmp_path, [queries(30)]), contents=COMPOSED, options=options
    )
    ends = Counter(
        caption.endswith("9")
        for batch in batches(dataset, range(50))
        for caption in captions_of(batch)
    )
    assert abs(ends[True] - 450) < 4 * (600 * 3 / 16) ** 0.5


BAD_QUERIES: dict[str, tuple[Callable[[dict[str, bytes]], object], str]] = {
    "no target": (
        lambda members: members.pop("target.png"),
        "no image: expected a member target.jpg, target.jpeg, target.png, target.webp",
    ),
    "a source that is none": (
        lambda members: members.update({"source.png": b"x"}),
        "image does not decode (not an image)",
    ),
    "no modification": (
        lambda members: members.update(json=described(["1"], source_id="a", target_id="b")),
        "no modification in its json",
    ),
    "an empty one": (
        lambda members: members.update(json=described([], modification=" ", target_id="b")),
        "no modification in its json",
    ),
    "an object": (
        lambda members: members.update(json=described([], modification={"a": 1}, target_id="b")),
        "modification is no text (but an object)",
    ),
    "no source's id": (
        lambda members: members.update(json=described([], modification="1", target_id="b")),
        "no source_id in its json",
    ),
    "no target's id": (
        lambda members: members.update(json=described([], modification="1", source_id="a")),
        "no target_id in its json",
    ),
    "a small target": (
        lambda members: members.update({"target.png": encode(plain(3, (7, 8)))}),
        "image is too small (a side under 8 pixels)",
    ),
}


@pytest.mark.parametrize("fault", BAD_QUERIES)
def test_a_query_that_cannot_be_used_is_named(tmp_path: Path, fault: str) -> None:
    spoil, cause = BAD_QUERIES[fault]
    samples = {key: dict(members) for key, members in queries(24).items()}
    spoil(samples["00007"])
    manifest = write_shards(tmp_path, [samples])
    dataset = training_set(manifest, contents=COMPOSED, options=[{"min_side": 8}])
    found = batches(dataset, range(2))
    faults = [fault for batch in found for fault in batch.faults]
    assert [(fault.key, fault.cause) for fault in faults] == [("00007", cause)]
    seen = Counter(number for batch in found for number in numbers_of(batch))
    assert 7 not in seen
    assert seen.total() == 24
    for batch in found:
        assert [number_of(image) - TARGETS for image in batch.targets] == numbers_of(batch)


def featured_queries(count: int, *, lower: bool) -> dict[str, Members]:
    """Features of queries that say their number."""
    samples = {}
    for n in range(count):
        samples[f"{n:05d}"] = {
            "source.npy": npy(np.full(3, n, np.float32)),
            "target.npy": npy(np.full(3, TARGETS + n, np.float32)),
            "text.npy": npy(np.full((1, 2), n, np.float32)),
            "json": queries(n + 1)[f"{n:05d}"]["json"],
        }
        if lower:
            samples[f"{n:05d}"]["target.lower.npy"] = npy(np.full((4, 2), n, np.float32))
    return samples


@pytest.mark.parametrize("lower", [False, True])
def test_features_stand_in_for_queries(tmp_path: Path, lower: bool) -> None:
    manifest = write_shards(tmp_path, [featured_queries(20, lower=lower)])
    dataset = training_set(manifest, contents=COMPOSED)
    (batch,), (numbers,) = batches(dataset, range(1)), wanted(dataset, range(1))
    assert batch.faults == ()
    assert batch.images is batch.targets is batch.tokens is None
    assert batch.image_features.tolist() == [[n] * 3 for n in numbers]
    assert batch.target_features.tolist() == [[TARGETS + n] * 3 for n in numbers]
    assert batch.text_features.tolist() == [[n] * 2 for n in numbers]
    if lower:
        assert batch.target_lower.tolist() == [[[n] * 2] * 4 for n in numbers]
    else:
        assert batch.target_lower is None


def test_a_set_says_whether_it_is_composed(tmp_path: Path) -> None:
    def kind(name: str, samples: dict[str, Members]) -> SampleSpec:
        return infer_sample_spec(SampleReader(write_shards(tmp_path / name, [samples])))

    assert kind("a", numbered(3)) == SampleSpec(None, None)
    assert kind("b", queries(3)) == SampleSpec(None, None, composed=True)
    assert kind("c", featured_queries(3, lower=True)) == SampleSpec(
        (3,), (2,), (4, 2), composed=True
    )


def test_queries_and_pairs_are_not_mixed(tmp_path: Path) -> None:
    sets = [write_shards(tmp_path / "a", [numbered(9)]), write_shards(tmp_path / "b", [queries(9)])]
    with pytest.raises(UserError, match=r"^data\.train: some data sets hold [^\n]*$"):
        batches(training_set(*sets), range(1))


# Captions of views.


def indices(batch: Batch, tokens: Tensor) -> list[int]:
    """Which of their samples' captions those in `tokens` are."""
    texts = TOKENIZER.tokenizer.decode_batch(tokens.tolist())
    numbers = numbers_of(batch)
    assert [int(text.split()[0]) for text in texts] == numbers
    return [int(text.split()[1]) for text in texts]


def test_views_have_captions_that_differ_where_there_are_several(tmp_path: Path) -> None:
    samples = {
        f"{n:05d}": {
            "png": encode(plain(n)),
            "json": described([f"{n} {caption}" for caption in range(1 + n % 3)]),
        }
        for n in range(36)
    }
    manifest = write_shards(tmp_path, [samples])
    dataset = training_set(manifest, contents=VIEWS)
    drawn: Counter[tuple[int, int, int]] = Counter()
    alone = batches(training_set(manifest), range(100))
    for batch, one in zip(batches(dataset, range(100), workers=1), alone, strict=True):
        assert batch.tokens.equal(one.tokens)
        first, second = indices(batch, batch.tokens), indices(batch, batch.second_tokens)
        counts = [1 + number % 3 for number in numbers_of(batch)]
        drawn.update(zip(counts, first, second, strict=True))
        assert batch.second_token_mask.sum(1).equal(batch.second_tokens.ne(TOKENIZER.pad).sum(1))
    assert set(drawn) == {
        (1, 0, 0),
        *((2, a, 1 - a) for a in range(2)),
        *((3, a, b) for a in range(3) for b in range(3) if a != b),
    }
    for count, ways in ((2, 2), (3, 6)):
        times = [number for (of, *_), number in drawn.items() if of == count]
        assert all(abs(one - 400 / ways) < 5 * (400 / ways) ** 0.5 for one in times)


def test_captions_that_are_equal_count_as_one(tmp_path: Path) -> None:
    samples = {
        f"{n:05d}": {"png": encode(plain(n)), "json": described([f"{n} 0"] * 4 + [f"{n} 1"])}
        for n in range(12)
    }
    dataset = training_set(write_shards(tmp_path, [samples]), contents=VIEWS)
    for batch in batches(dataset, range(9)):
        first, second = indices(batch, batch.tokens), indices(batch, batch.second_tokens)
        assert [1 - one for one in first] == second


def test_views_have_rows_of_features_that_differ(tmp_path: Path) -> None:
    """The same ones as captions would be."""
    samples = numbered(30)
    rows = np.array([[0, 0], [0, 1], [0, 2]], np.float32)
    features = {
        key: members | {"text.npy": npy(rows + np.array([n, 0]))}
        for n, (key, members) in enumerate(samples.items())
    }
    words, numbers = (
        batches(training_set(write_shards(tmp_path / name, [of]), contents=VIEWS), range(5))
        for name, of in (("words", samples), ("numbers", features))
    )
    for one, other in zip(words, numbers, strict=True):
        first, second = indices(one, one.tokens), indices(one, one.second_tokens)
        assert other.tokens is other.second_tokens is None
        assert other.text_features.tolist() == [
            list(pair) for pair in zip(numbers_of(one), first, strict=True)
        ]
        assert other.second_text_features[:, 1].tolist() == second


def test_images_alone_need_no_captions(tmp_path: Path) -> None:
    samples = {f"{n:05d}": {"png": encode(plain(n))} for n in range(20)}
    samples["00003"]["json"] = b'{"captions": [7], "image_id": "i3"}'
    dataset = training_set(
        write_shards(tmp_path, [samples]), contents=BatchSpec(views=2, captions=0)
    )
    for batch in batches(dataset, range(4), workers=1):
        assert batch.faults == ()
        assert batch.tokens is batch.token_mask is batch.text_features is None
        assert batch.second_images.equal(batch.images)


def test_labels_come_where_they_are_wanted(tmp_path: Path) -> None:
    samples = {
        f"{n:05d}": {"png": encode(plain(n)), "json": described(["1"], labels=[f"c{n % 4}", "x"])}
        for n in range(24)
    }
    samples["00005"] = samples["00005"] | {"json": described(["1"])}
    found = batches(
        training_set(write_shards(tmp_path, [samples]), contents=BatchSpec(labels=True)), range(2)
    )
    for batch in found:
        assert batch.labels.tolist() == [hash_id(f"c{n % 4}") for n in numbers_of(batch)]
    faults = [(fault.key, fault.cause) for batch in found for fault in batch.faults]
    assert faults == [("00005", "no label, which the method learns from")]


def test_samples_of_several_data_sets_are_numbered_on(tmp_path: Path) -> None:
    """A neighbour that takes a bad sample's place keeps its own number."""
    one, two = (
        {
            f"{n:05d}": {"png": encode(plain(n + first)), "json": described(["1"])}
            for n in range(count)
        }
        for first, count in ((0, 30), (30, 12))
    )
    two["00005"]["png"] = b"no image"
    sets = [write_shards(tmp_path / name, [of]) for name, of in (("a", one), ("b", two))]
    dataset = training_set(*sets, contents=BatchSpec(numbers=True))
    assert dataset.num_samples == 42
    found = batches(dataset, range(5), workers=1)
    assert sum(len(batch.faults) for batch in found) > 0
    for batch in found:
        assert batch.sample_numbers.tolist() == numbers_of(batch)
    plain_set = training_set(*sets)
    assert batches(plain_set, range(1))[0].sample_numbers is None


# Views without a text.


def test_texts_are_dropped_by_position_and_view(tmp_path: Path) -> None:
    manifest = write_shards(tmp_path, [numbered(30)])
    dataset = training_set(manifest, contents=VIEWS, text_dropout=0.3)
    whole = batches(dataset, range(100))
    dropped = torch.stack([batch.text_dropped for batch in whole])
    assert dropped.shape == (100, BATCH, 2)
    assert dropped.dtype == torch.bool
    flat = dropped.flatten(0, 1).float()
    # Each view for itself: shares, and that of both together.
    shares = [*flat.mean(0).tolist(), float(flat.prod(1).mean())]
    for share, expected in zip(shares, (0.3, 0.3, 0.09), strict=True):
        assert abs(share - expected) < 4 * (expected * (1 - expected) / len(flat)) ** 0.5
    (late,) = batches(dataset, range(40, 41), workers=2)
    assert late.text_dropped.equal(dropped[40])
    plain_batches = batches(training_set(manifest, contents=VIEWS), range(3))
    for one, other in zip(plain_batches, whole, strict=False):
        assert one.text_dropped is None
        assert one.tokens.equal(other.tokens)  # what is dropped is there all the same
        assert one.second_tokens.equal(other.second_tokens)


def test_keys_of_texts_that_no_sample_has_are_named(tmp_path: Path) -> None:
    reader = SampleReader(write_shards(tmp_path, [numbered(3)]))
    with pytest.raises(
        UserError, match="no caption: expected zh, the keys that `texts` draws from"
    ):
        infer_sample_spec(reader, {"zh": 1.0})
