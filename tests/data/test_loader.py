"""Batches: the same from any number of workers and ranks, and no fault shifts a neighbour."""

import dataclasses
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.shard_sets import Members, described, encode, number_of, numbered, plain, write_shards
from xmodal.data.batch import Batch, Fault
from xmodal.data.loader import (
    EvaluationSet,
    PairReader,
    TrainingSet,
    evaluation_batches,
    training_batches,
)
from xmodal.data.manifest import Manifest
from xmodal.data.plan import Plan
from xmodal.data.samples import hash_id
from xmodal.data.tokens import CaptionTokenizer, train_tokenizer
from xmodal.data.transforms import ImageTransform
from xmodal.errors import UserError

COUNT, BATCH, LANES, WINDOW, SEED = 50, 12, 6, 4, 3


@pytest.fixture(scope="module")
def tokenizer() -> CaptionTokenizer:
    return train_tokenizer([f"{number} {number}" for number in range(COUNT)], 300, context=12)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Fifty plain images in three shards."""
    return write_set(tmp_path_factory.mktemp("set"), numbered(COUNT))


def write_set(folder: Path, samples: dict[str, Members]) -> Manifest:
    items = list(samples.items())
    return write_shards(folder, [dict(items[:20]), dict(items[20:25]), dict(items[25:])])


def training_set(
    manifest: Manifest, tokenizer: CaptionTokenizer, *, lanes: int = LANES, **transform: object
) -> TrainingSet:
    sizes = [shard.num_samples for shard in manifest.shards]
    plan = Plan(sizes, seed=SEED, lanes=lanes, window=WINDOW)
    return TrainingSet(PairReader(manifest, ImageTransform(8, **transform)), plan, tokenizer, SEED)


def batches(
    dataset: TrainingSet, steps: Sequence[int], *, rank: int = 0, ranks: int = 1, workers: int = 0
) -> list[Batch]:
    return list(
        training_batches(dataset, steps, batch_size=BATCH, rank=rank, ranks=ranks, workers=workers)
    )


def captions_of(batch: Batch, tokenizer: CaptionTokenizer) -> list[str]:
    return [text.strip() for text in tokenizer.tokenizer.decode_batch(batch.tokens.tolist())]


def numbers_of(batch: Batch) -> list[int]:
    return [number_of(image) for image in batch.images]


def assert_same(one: Batch, other: Batch) -> None:
    for field in dataclasses.fields(Batch):
        a, b = getattr(one, field.name), getattr(other, field.name)
        assert a.equal(b) if isinstance(a, Tensor) else a == b, field.name


def textured(count: int) -> dict[str, Members]:
    """Images of which every crop differs."""
    generator = torch.Generator().manual_seed(0)
    return {
        key: members
        | {"png": encode(torch.randint(256, (24, 30, 3), generator=generator).byte().numpy())}
        for key, members in numbered(count).items()
    }


def test_batches_follow_the_plan_and_pair_an_image_with_a_caption_of_its_own(
    shards: Manifest, tokenizer: CaptionTokenizer
) -> None:
    dataset = training_set(shards, tokenizer)
    for step, batch in enumerate(batches(dataset, range(9))):
        wanted = [dataset.plan.sample_at(p) for p in range(step * BATCH, (step + 1) * BATCH)]
        assert numbers_of(batch) == wanted
        assert batch.images.dtype == torch.uint8
        assert batch.image_ids.tolist() == [hash_id(f"i{number}") for number in wanted]
        assert [int(c.split()[0]) for c in captions_of(batch, tokenizer)] == wanted
        assert batch.faults == ()


def test_every_caption_of_an_image_is_drawn(shards: Manifest, tokenizer: CaptionTokenizer) -> None:
    drawn = [
        int(caption.split()[1])
        for batch in batches(training_set(shards, tokenizer), range(50))
        for caption in captions_of(batch, tokenizer)
    ]
    assert [150 < drawn.count(one) < 250 for one in range(3)] == [True] * 3


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(tmp_path: Path, tokenizer: CaptionTokenizer, workers: int) -> None:
    dataset = training_set(
        write_set(tmp_path, textured(COUNT)), tokenizer, crop=(0.2, 0.9), flip=True
    )
    alone = batches(dataset, range(3, 10))
    for one, other in zip(alone, batches(dataset, range(3, 10), workers=workers), strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("ranks", [2, 3, 6])
def test_ranks_share_out_the_rows_of_one_batch(
    tmp_path: Path, tokenizer: CaptionTokenizer, ranks: int
) -> None:
    dataset = training_set(
        write_set(tmp_path, textured(COUNT)), tokenizer, crop=(0.2, 0.9), flip=True
    )
    for step in (0, 4):
        (whole,) = batches(dataset, [step])
        captions = captions_of(whole, tokenizer)
        for rank in range(ranks):
            (part,) = batches(dataset, [step], rank=rank, ranks=ranks)
            assert part.images.equal(whole.images[rank::ranks])
            assert part.image_ids.equal(whole.image_ids[rank::ranks])
            assert captions_of(part, tokenizer) == captions[rank::ranks]


def test_what_is_drawn_comes_from_seed_and_position_alone(
    tmp_path: Path, tokenizer: CaptionTokenizer
) -> None:
    manifest = write_set(tmp_path, textured(COUNT))
    first, again = (training_set(manifest, tokenizer, crop=(0.2, 0.9)) for _ in range(2))
    (late,) = batches(first, [30])
    random.seed(1)
    torch.manual_seed(1)
    batches(again, range(5))
    assert_same(late, batches(again, [30])[0])
    other = TrainingSet(first.pairs, first.plan, tokenizer, SEED + 1)
    (changed,) = batches(other, [30])
    assert changed.image_ids.equal(late.image_ids)
    assert not changed.images.equal(late.images)


CUT = encode(plain(1, (40, 40)), "JPEG")[:-60]
BOMB = encode(plain(1), "JPEG")
BOMB = BOMB.replace(
    b"\xff\xc0\x00\x11\x08\x00\x08\x00\x08", b"\xff\xc0\x00\x11\x08\xea\x60\xea\x60"
)
GOOD = {"png": encode(plain(1)), "json": described(["c"])}
NO_JSON = {"png": GOOD["png"]}
NO_IMAGE = {"json": GOOD["json"]}

FAULTS: dict[str, tuple[Members, str]] = {
    "text named jpg": (NO_IMAGE | {"jpg": b"404: not found"}, "image does not decode (not an"),
    "zero bytes": (NO_IMAGE | {"jpg": b""}, "jpg is empty"),
    "cut image": (NO_IMAGE | {"jpg": CUT}, "image does not decode ("),
    "no image": (NO_IMAGE, "no image"),
    "bomb": (NO_IMAGE | {"jpg": BOMB}, "image is too large"),
    "not UTF-8": (NO_JSON | {"json": b'{"captions": ["\xff"]}'}, "caption in its json is not UTF"),
    "wrong type": (NO_JSON | {"json": described({"a": 1})}, "captions in its json are not a list"),
    "empty caption": (NO_JSON | {"json": described([""])}, "caption is empty"),
    "missing caption": (NO_JSON, "no caption"),
}


@pytest.fixture
def broken(tmp_path: Path) -> Callable[..., Manifest]:
    """The fifty images, some of them replaced by these members."""

    def replaced(members: Members, numbers: Sequence[int]) -> Manifest:
        samples = numbered(COUNT) | {f"{number:05d}": members for number in numbers}
        return write_set(tmp_path / "broken", samples)

    return replaced


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("workers", [0, 1])
def test_a_fault_is_named_and_a_neighbour_takes_its_slot_and_no_other(
    broken: Callable[..., Manifest],
    shards: Manifest,
    tokenizer: CaptionTokenizer,
    name: str,
    workers: int,
) -> None:
    members, cause = FAULTS[name]
    bad = 22
    manifest = broken(members, [bad])
    dataset = training_set(manifest, tokenizer)
    place = next(p for p in range(COUNT) if dataset.plan.sample_at(p) == bad)
    step, row = divmod(place, BATCH)
    (found,) = batches(dataset, [step], workers=workers)
    (whole,) = batches(training_set(shards, tokenizer), [step])

    (fault,) = found.faults
    assert (fault.shard, fault.key) == (manifest.shards[1].url, "00022")
    assert fault.cause.startswith(cause)

    nearest = dataset.plan.sample_at(dataset.plan.neighbours(place, 1)[0])
    wanted = numbers_of(whole)
    wanted[row] = nearest
    assert numbers_of(found) == wanted
    # A repeat carries the id of what it repeats, so that it is never its own negative.
    assert found.image_ids.tolist() == [hash_id(f"i{number}") for number in wanted]
    captions = captions_of(whole, tokenizer)
    seen = captions_of(found, tokenizer)
    assert int(seen[row].split()[0]) == nearest
    assert seen[:row] + seen[row + 1 :] == captions[:row] + captions[row + 1 :]


def test_the_nearest_readable_neighbour_takes_the_place(
    broken: Callable[..., Manifest], tokenizer: CaptionTokenizer, shards: Manifest
) -> None:
    plan = training_set(shards, tokenizer).plan
    place = 3 * LANES + 1
    around = [plan.sample_at(other) for other in plan.neighbours(place, 3)]
    manifest = broken(FAULTS["zero bytes"][0], [plan.sample_at(place), *around[:3]])
    (batch,) = batches(training_set(manifest, tokenizer), [place // BATCH])
    assert numbers_of(batch)[place % BATCH] == around[3]
    # Only the sample whose turn it was is reported: the others are when their own turn comes.
    assert [fault.key for fault in batch.faults].count(f"{plan.sample_at(place):05d}") == 1
    assert len({fault.key for fault in batch.faults}) == len(batch.faults)


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_readable_around_stops_with_one_line(
    broken: Callable[..., Manifest], tokenizer: CaptionTokenizer, workers: int
) -> None:
    dataset = training_set(broken(FAULTS["zero bytes"][0], range(COUNT)), tokenizer)
    with pytest.raises(UserError) as caught:
        batches(dataset, [0], workers=workers)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(dataset.pairs.samples.shards[0].url.rsplit("-", 1)[0])
    assert "jpg is empty; and none of its" in line
    assert "python -m shards check" in line
    assert caught.value.__cause__ is None


def test_a_bad_sample_alone_in_its_lane_is_filled_from_the_lanes_beside_it(
    broken: Callable[..., Manifest], tokenizer: CaptionTokenizer
) -> None:
    dataset = training_set(broken(FAULTS["zero bytes"][0], [22]), tokenizer, lanes=60)
    found = [number for batch in batches(dataset, range(5)) for number in numbers_of(batch)]
    assert 22 not in found
    assert len(found) == 5 * BATCH


def evaluation_set(manifest: Manifest, tokenizer: CaptionTokenizer) -> EvaluationSet:
    return EvaluationSet(PairReader(manifest, ImageTransform(8)), tokenizer)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_sees_every_sample_with_all_captions(
    shards: Manifest, tokenizer: CaptionTokenizer, workers: int
) -> None:
    chunks = [range(7), range(7, 30), range(30, COUNT)]
    found = list(evaluation_batches(evaluation_set(shards, tokenizer), chunks, workers=workers))
    for chunk, batch in zip(chunks, found, strict=True):
        assert batch.numbers.tolist() == numbers_of(batch.images) == list(chunk)
        assert batch.captions == [f"{number} {c}" for number in chunk for c in range(3)]
        assert batch.owners.tolist() == [row for row in range(len(chunk)) for _ in range(3)]
        assert captions_of(batch.texts, tokenizer) == batch.captions
        assert batch.texts.images is None
        assert batch.images.tokens is None


def test_evaluation_leaves_out_what_cannot_be_read_and_names_it(
    broken: Callable[..., Manifest], tokenizer: CaptionTokenizer
) -> None:
    dataset = evaluation_set(broken(FAULTS["bomb"][0], [1, 40, 41]), tokenizer)
    first, second = evaluation_batches(dataset, [range(3), range(40, 42)], workers=0)
    assert first.numbers.tolist() == numbers_of(first.images) == [0, 2]
    assert first.owners.tolist() == [0, 0, 0, 1, 1, 1]
    assert [fault.key for fault in first.faults] == ["00001"]
    assert second.numbers.tolist() == []
    assert len(second.faults) == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_goes_away_during_evaluation_is_one_line(
    broken: Callable[..., Manifest], tokenizer: CaptionTokenizer, workers: int
) -> None:
    manifest = broken(GOOD, [])
    Path(manifest.shards[0].url).unlink()
    found = evaluation_batches(evaluation_set(manifest, tokenizer), [range(2)], workers=workers)
    with pytest.raises(UserError, match=r"^shard \S*000000\.tar cannot be read: [^\n]*$"):
        next(found)


def test_a_batch_moves_whole_and_a_fault_can_be_printed() -> None:
    fault = Fault("s.tar", "caf\udce9", "jpg is empty")
    batch = Batch(images=torch.zeros(1), faults=(fault,)).to(torch.device("cpu"))
    assert batch.faults == (fault,)
    assert batch.tokens is None
    assert str(fault).encode() == b"s.tar, caf\\udce9: jpg is empty"
