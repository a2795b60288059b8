"""Batches for training: the same on any ranks and workers, from wherever a run goes on."""

import dataclasses
import os
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.shard_sets import (
    Members,
    described,
    encode,
    number_of,
    numbered,
    plain,
    with_lengths,
    write_shards,
)
from tests.training_sets import (
    BATCH,
    LANES,
    SEED,
    TOKENIZER,
    assert_same,
    batches,
    captions_of,
    kept,
    loader_of,
    npy,
    numbers_of,
    samples_in,
    training_set,
    watched,
)
from xmodal.data.batch import Batch, BatchSpec, Fault
from xmodal.data.manifest import Manifest
from xmodal.data.ring import SLOTS
from xmodal.data.sample_spec import PROBED
from xmodal.data.samples import hash_id
from xmodal.data.training_set import TrainingSet
from xmodal.errors import UserError

COUNT = 53
SIZES = (20, 5, 1, 27)
ALLOWED_RANKS, WORKERS = (1, 2, 3, 4, 6), (0, 1, 2, 4)


def in_shards(folder: Path, samples: dict[str, Members]) -> Manifest:
    items, parts = list(samples.items()), []
    for size in SIZES:
        parts.append(dict(items[:size]))
        items = items[size:]
    return write_shards(folder, parts)


def textured(count: int) -> dict[str, Members]:
    """Images of which every crop differs."""
    generator = np.random.default_rng(0)
    return {
        key: members | {"png": encode(generator.integers(256, size=(24, 30, 3), dtype=np.uint8))}
        for key, members in numbered(count).items()
    }


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Plain images, which say their numbers, in four shards."""
    return in_shards(tmp_path_factory.mktemp("plain"), numbered(COUNT))


@pytest.fixture(scope="module")
def crops(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Images of which every crop differs, in four shards; a few cannot be used."""
    samples = textured(COUNT)
    for bad in (3, 24, 26, 40):
        samples[f"{bad:05d}"] = samples[f"{bad:05d}"] | {"png": b"not an image"}
    return with_lengths(in_shards(tmp_path_factory.mktemp("crops"), samples))


def joined(parts: list[Batch]) -> dict[str, object]:
    """What the ranks' parts of a batch are together: row i of rank r is row i * ranks + r."""
    ranks, found = len(parts), {}
    width = max(part.tokens.shape[1] for part in parts)
    for name, value in vars(parts[0]).items():
        if isinstance(value, Tensor):
            columns = [getattr(part, name) for part in parts]
            if name in ("tokens", "token_mask"):
                pad = TOKENIZER.pad if name == "tokens" else False
                columns = [
                    torch.nn.functional.pad(one, (0, width - one.shape[1]), value=pad)
                    for one in columns
                ]
            whole = torch.empty(ranks * len(value), *columns[0].shape[1:], dtype=value.dtype)
            for rank, column in enumerate(columns):
                whole[rank::ranks] = column
            found[name] = whole
    found["faults"] = Counter(fault for part in parts for fault in part.faults)
    return found


def global_batches(
    dataset: TrainingSet, steps: range, size: int, ranks: int = 1, workers: int = 0
) -> list[dict[str, object]]:
    parts = [
        batches(dataset, steps, size=size, rank=rank, ranks=ranks, workers=workers)
        for rank in range(ranks)
    ]
    return [joined(list(ofs)) for ofs in zip(*parts, strict=True)]


def assert_equal(one: dict[str, object], other: dict[str, object]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        same = value.equal(other[name]) if isinstance(value, Tensor) else value == other[name]
        assert same, name


def parts_of(manifest: Manifest, chosen: set[int]) -> Manifest:
    return dataclasses.replace(manifest, shards=tuple(manifest.shards[n] for n in sorted(chosen)))


# Which shards, how the order is made of them, on how many processes, from where.
CASES = st.fixed_dictionaries(
    {
        "sets": st.lists(st.sets(st.integers(0, 3), min_size=1), min_size=1, max_size=3),
        "lanes": st.sampled_from([12, 24, 60]),
        "times": st.integers(1, 2),
        "window": st.integers(1, 30),
        "views": st.sampled_from([1, 2]),
        "buckets": st.booleans(),
        "ranks": st.sampled_from(ALLOWED_RANKS),
        "workers": st.sampled_from(WORKERS),
        "start": st.integers(0, 3),
    }
)


@given(CASES)
@settings(max_examples=15)
def test_any_ranks_and_workers_from_any_step_give_the_same_batches(
    crops: Manifest, case: dict
) -> None:
    """More lanes than samples and larger batches than the set among them; some samples are bad."""
    manifests = [parts_of(crops, chosen) for chosen in case["sets"]]
    size, end = case["lanes"] * case["times"], 5
    dataset = training_set(
        *manifests,
        bucketed=size if case["buckets"] else None,
        weights=[1, 2, 1][: len(manifests)],
        lanes=case["lanes"],
        window=case["window"],
        contents=BatchSpec(views=case["views"]),
        crop=(0.2, 0.9),
        flip=True,
    )
    whole = global_batches(dataset, range(end), size)
    resumed = global_batches(
        dataset, range(case["start"], end), size, case["ranks"], case["workers"]
    )
    assert len(resumed) == end - case["start"]
    for one, other in zip(whole[case["start"] :], resumed, strict=True):
        assert_equal(one, other)


@pytest.mark.parametrize("ranks", ALLOWED_RANKS)
@pytest.mark.parametrize("workers", WORKERS)
def test_every_allowed_number_of_processes_goes_on_alike(
    crops: Manifest, shards: Manifest, ranks: int, workers: int
) -> None:
    """Two sets, batches of three rounds of the lanes, stopped in the midst of an epoch."""
    dataset = training_set(
        crops, shards, weights=[2, 1], lanes=12, window=5, crop=(0.2, 0.9), flip=True
    )
    whole = global_batches(dataset, range(4), 36)
    for one, other in zip(
        whole[1:], global_batches(dataset, range(1, 4), 36, ranks, workers), strict=True
    ):
        assert_equal(one, other)


def test_batches_follow_the_order_and_pair_an_image_with_a_caption_of_its_own(
    shards: Manifest,
) -> None:
    dataset = training_set(shards)
    for step, batch in enumerate(batches(dataset, range(9))):
        places = [dataset.mixture.sample_at(p) for p in range(step * BATCH, (step + 1) * BATCH)]
        wanted = [place.sample for place in places]
        assert numbers_of(batch) == wanted
        assert batch.images.dtype == torch.uint8
        assert batch.images.shape == (BATCH, 3, 8, 8)
        assert batch.image_ids.tolist() == [hash_id(f"i{number}") for number in wanted]
        assert [int(c.split()[0]) for c in captions_of(batch)] == wanted
        assert batch.faults == ()


def test_every_sample_comes_once_an_epoch(shards: Manifest) -> None:
    found = [n for batch in batches(training_set(shards), range(9)) for n in numbers_of(batch)]
    assert sorted(found[:COUNT]) == sorted(found[COUNT : 2 * COUNT]) == list(range(COUNT))


def test_every_caption_of_an_image_is_drawn(shards: Manifest) -> None:
    drawn = Counter(
        int(caption.split()[1])
        for batch in batches(training_set(shards), range(50))
        for caption in captions_of(batch)
    )
    assert all(150 < drawn[one] < 250 for one in range(3))


def test_what_is_drawn_comes_from_seed_and_position_alone(crops: Manifest) -> None:
    first, again = (training_set(crops, crop=(0.2, 0.9)) for _ in range(2))
    (late,) = batches(first, range(30, 31))
    random.seed(1)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    batches(again, range(5))
    assert_same(late, batches(again, range(30, 31))[0])
    other = training_set(crops, crop=(0.2, 0.9))
    other.seed = SEED + 1
    (changed,) = batches(other, range(30, 31))
    assert changed.image_ids.equal(late.image_ids)
    assert not changed.images.equal(late.images)
    assert captions_of(changed) != captions_of(late)


def test_epochs_draw_anew(crops: Manifest) -> None:
    dataset = training_set(crops, lanes=1, window=1, crop=(0.2, 0.9))
    seen: dict[int, set[bytes]] = {}
    for batch in batches(dataset, range(3 * COUNT), size=1):
        if not batch.faults:
            key = int(batch.image_ids)
            seen.setdefault(key, set()).add(batch.images.numpy().tobytes())
    assert np.mean([len(images) for images in seen.values()]) > 2.9


def test_two_views_of_an_image_are_two_crops_of_it(crops: Manifest) -> None:
    both = batches(training_set(crops, contents=BatchSpec(views=2), crop=(0.2, 0.9)), range(2))
    alone = batches(training_set(crops, crop=(0.2, 0.9)), range(2))
    for two, one in zip(both, alone, strict=True):
        assert two.images.equal(one.images)
        assert two.tokens.equal(one.tokens)
        assert two.second_images.shape == two.images.shape
        assert one.second_images is None
        assert (two.second_images != two.images).flatten(1).any(1).all()


def test_images_lie_channels_last(shards: Manifest) -> None:
    (batch,) = batches(training_set(shards), range(1))
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


def test_padding_is_what_no_caption_reaches(tmp_path: Path) -> None:
    """Also where the slot held a longer caption before."""
    samples = {
        f"{n:05d}": {"png": encode(plain(n)), "json": described(["1 " * (1 + n % 9)])}
        for n in range(36)
    }
    dataset = training_set(write_shards(tmp_path, [samples]))
    for batch in batches(dataset, range(30), workers=2):
        for row, number in enumerate(numbers_of(batch)):
            ids, _ = TOKENIZER(["1 " * (1 + number % 9)])
            length = ids.shape[1]
            assert batch.tokens[row, :length].equal(ids[0])
            assert batch.token_mask[row].tolist() == [
                at < length for at in range(batch.tokens.shape[1])
            ]
            assert batch.tokens[row, length:].eq(TOKENIZER.pad).all()
        assert batch.token_mask.any(0).all()


# Memory that is used again.


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_batch_holds_until_the_next_but_one_is_asked_for(shards: Manifest, workers: int) -> None:
    before: tuple[Batch, Batch] | None = None
    for batch in loader_of(training_set(shards), range(3 * SLOTS), workers=workers):
        copy = kept(batch)
        time.sleep(0.02)  # workers write wherever they may
        assert_same(batch, copy)
        if before:
            assert_same(*before)
        before = batch, copy


@pytest.mark.parametrize(("workers", "slots"), [(0, 2), (2, SLOTS)])
def test_memory_is_used_again(shards: Manifest, workers: int, slots: int) -> None:
    places = [
        (batch.images.data_ptr(), batch.image_ids.data_ptr())
        for batch in loader_of(training_set(shards), range(3 * slots), workers=workers)
    ]
    assert len(set(places)) == slots
    assert places == places[:slots] * 3


def resident(pid: int) -> int:
    """Bytes of a process's memory that are its own."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()
    return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE")


def resident_over(epochs: int, dataset: TrainingSet, workers: int) -> Iterator[list[int]]:
    """Yield the memory of the trainer and its workers after each epoch."""
    size = len(dataset.data_sets[0].reader)
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    before = set(children.read_text().split())
    loader = loader_of(dataset, range(epochs * size // BATCH), workers=workers)
    for step, _ in enumerate(loader, start=1):
        if step % (size // BATCH) == 0:
            own = [int(pid) for pid in children.read_text().split() if pid not in before]
            assert len(own) == workers
            yield [resident(pid) for pid in (os.getpid(), *own)]


@pytest.mark.parametrize("workers", [0, 2])
def test_memory_is_flat_over_many_epochs(tmp_path: Path, workers: int) -> None:
    generator = np.random.default_rng(0)
    samples = {
        key: members | {"png": encode(generator.integers(256, size=(90, 90, 3), dtype=np.uint8))}
        for key, members in numbered(120).items()
    }
    bytes_an_epoch = sum(len(one["png"]) for one in samples.values())
    assert bytes_an_epoch > 2.5e6
    dataset = training_set(write_shards(tmp_path, [samples]), lanes=12, window=8)
    found = np.array(list(resident_over(20, dataset, workers)))
    growth = found[15:].min(0) - found[4:8].max(0)
    assert (growth < 4e6).all(), found.tolist()


# Who reads what.


@pytest.mark.parametrize(("ranks", "workers"), [(1, 1), (1, 2), (1, 5), (1, 50), (3, 3), (3, 4)])
def test_no_two_workers_read_a_block(tmp_path: Path, ranks: int, workers: int) -> None:
    """In an epoch every sample is read once, by one process; lanes of three rounds a batch."""
    manifest = write_shards(tmp_path / "set", [numbered(50), numbered(22)])
    manifest = watched(manifest, tmp_path / "log")
    dataset = training_set(manifest, lanes=12, window=4)
    for rank in range(ranks):
        batches(dataset, range(2), size=36, rank=rank, ranks=ranks, workers=workers)
    reads = [read for read in manifest.storage.reads() if read.process != os.getpid()]
    assert sorted(samples_in(manifest, reads)) == list(range(72))
    assert len({read.process for read in reads}) == ranks * min(workers, 12 // ranks)


def test_an_index_is_read_by_few_processes_at_sight_of_shards(shards: Manifest) -> None:
    loader = loader_of(training_set(shards), range(1), workers=50)
    assert loader.workers == LANES
    assert loader_of(training_set(shards), range(1), ranks=3, workers=50).workers == LANES // 3


def test_waits_are_told_with_the_slowest_shard(shards: Manifest, tmp_path: Path) -> None:
    slow = shards.shards[3].url
    manifest = watched(shards, tmp_path / "log", lambda url: time.sleep(0.1 * (url == slow)))
    loader = loader_of(training_set(manifest), range(8), workers=2)
    for _ in loader:
        pass
    lap = loader.lap()
    assert lap["slowest_shard"] == slow
    assert 0.3 < lap["read_wait"] <= 1
    assert loader.lap() == {"read_wait": 0.0, "slowest_shard": ""}


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_storage_says_comes_with_the_batch(
    shards: Manifest, tmp_path: Path, workers: int
) -> None:
    def again(url: str) -> None:
        manifest.storage.say(f"{Path(url).name}: begun again")

    manifest = watched(shards, tmp_path / "log")
    manifest.storage.before = again
    dataset = training_set(manifest)
    manifest.storage.say = lambda _: None
    lines = [
        line for batch in batches(dataset, range(4), workers=workers) for line in batch.warnings
    ]
    assert {line.split(":")[0] for line in lines} == {f"set-{n:06d}.tar" for n in range(4)}
    # All but what was read to see what the samples are like.
    assert 0 <= len(manifest.storage.reads()) - len(lines) <= 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_shard_that_goes_away_is_one_line(tmp_path: Path, workers: int) -> None:
    manifest = in_shards(tmp_path, numbered(COUNT))
    Path(manifest.shards[3].url).unlink()
    with pytest.raises(UserError, match=r"^shard \S*000003\.tar cannot be read: [^\n]*$"):
        batches(training_set(manifest), range(5), workers=workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bug_shows_its_traceback(
    shards: Manifest, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    def bug(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("xmodal.data.transforms.ImageTransform.__call__", bug)
    kind = RuntimeError if workers else ZeroDivisionError
    with pytest.raises(kind, match="a bug"):
        batches(training_set(shards), range(5), workers=workers)


# Mixed data sets.


def test_data_sets_share_every_batch_as_their_weights_say(tmp_path: Path) -> None:
    first = write_shards(tmp_path / "a", [numbered(17)])
    second = write_shards(
        tmp_path / "b",
        [{f"b{n}": {"png": encode(plain(1000 + n)), "txt": b"x"} for n in range(40)}],
    )
    dataset = training_set(first, second, weights=[1, 2])
    seen: Counter[int] = Counter()
    for batch in batches(dataset, range(30)):
        numbers = numbers_of(batch)
        assert sum(number < 1000 for number in numbers) == BATCH // 3
        seen.update(numbers)
    # Each set in its own rounds: 120 of 17 samples, 240 of 40.
    assert {seen[number] for number in range(17)} == {7, 8}
    assert {seen[number] for number in range(1000, 1040)} == {6}


def test_each_data_set_has_its_own_texts_and_limits(tmp_path: Path) -> None:
    def samples(side: int) -> dict[str, Members]:
        return {
            f"{n:05d}": {
                "png": encode(plain(n, (side, side + n % 2))),
                "json": described(["1 1"], alt="2 2", title="3 3"),
            }
            for n in range(30)
        }

    one = write_shards(tmp_path / "a", [samples(6)])
    other = write_shards(tmp_path / "b", [samples(9)])
    options = [
        {"texts": {"alt": 3.0, "title": 1.0, "nothing": 9.0}},
        {"texts": {"title": 1.0}, "min_side": 9, "max_pixels": 81},
    ]
    dataset = training_set(one, other, options=options)
    found: dict[bool, Counter[str]] = {False: Counter(), True: Counter()}
    faults: list[Fault] = []
    for batch in batches(dataset, range(100)):
        faults += batch.faults
        # Three lanes of one set and three of the other.
        for row, caption in enumerate(captions_of(batch)):
            found[row % LANES >= 3][caption] += 1
    assert found[True] == {"3 3": 600}
    alt = found[False]["2 2"]
    assert set(found[False]) == {"2 2", "3 3"}
    assert abs(alt - 450) < 4 * (600 * 3 / 16) ** 0.5
    assert {fault.shard for fault in faults} == {other.shards[0].url}
    assert len(faults) == 300
    assert {(fault.cause, fault.by_choice) for fault in faults} == {
        ("image is too large (over 81 pixels)", True)
    }


def test_labels_and_templates_make_captions(tmp_path: Path) -> None:
    samples = {
        f"{n:05d}": {
            "png": encode(plain(n, (9, 9))),
            "json": described(["9 9"], labels=[f"{n % 3}"]),
        }
        for n in range(30)
    }
    options = [{"texts": {"labels": 1.0}, "templates": ["1 {}", "{} 2"]}]
    dataset = training_set(write_shards(tmp_path, [samples]), options=options)
    found = Counter(
        caption for batch in batches(dataset, range(20)) for caption in captions_of(batch)
    )
    assert set(found) == {f"1 {n}" for n in range(3)} | {f"{n} 2" for n in range(3)}


def test_what_is_left_out_by_choice_is_replaced_and_told_apart(tmp_path: Path) -> None:
    samples = numbered(24)
    for n in (2, 9):
        samples[f"{n:05d}"] = samples[f"{n:05d}"] | {"png": encode(plain(n, (8, 5)))}
    samples["00015"] = samples["00015"] | {"png": b"broken"}
    manifest = write_shards(tmp_path, [samples])
    dataset = training_set(manifest, options=[{"min_side": 6}])
    found = batches(dataset, range(2))
    faults = [fault for batch in found for fault in batch.faults]
    small = "image is too small (a side under 6 pixels)"
    assert {(fault.key, fault.cause, fault.by_choice) for fault in faults} == {
        ("00002", small, True),
        ("00009", small, True),
        ("00015", "image does not decode (not an image)", False),
    }
    seen = Counter(number for batch in found for number in numbers_of(batch))
    assert not {2, 9, 15} & set(seen)
    assert seen.total() == 24
    mixture = dataset.mixture
    for position in range(24):
        bad = mixture.sample_at(position).sample
        if bad in (2, 9, 15):
            around = [near.sample for near in mixture.neighbours(position, 3)]
            wanted = next(number for number in around if number not in (2, 9, 15))
            assert numbers_of(found[position // BATCH])[position % BATCH] == wanted


# Features in place of images and captions.


def featured(count: int, image: bool = True, text: bool = True, width: int = 5) -> dict:
    """Features that say the number: of the image (width,), of its captions (1 + n % 3, 4)."""
    samples = {}
    for n in range(count):
        members = dict(numbered(n + 1)[f"{n:05d}"]) if n == count else {}
        said = [f"{n} {row}" for row in range(1 + n % 3 if text else 1)]
        members["json"] = described(said, image_id=f"i{n}")
        if image:
            members["image.npy"] = npy(np.full(width, n, np.float32))
        else:
            members["png"] = encode(plain(n))
        if text:
            rows = [[n, row, 0, 0] for row in range(1 + n % 3)]
            members["text.npy"] = npy(np.array(rows, np.float32))
        samples[f"{n:05d}"] = members
    return samples


@pytest.mark.parametrize(("image", "text"), [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("workers", [0, 2])
def test_features_stand_in_for_either_side(
    tmp_path: Path, image: bool, text: bool, workers: int
) -> None:
    manifest = in_shards(tmp_path, featured(COUNT, image, text))
    dataset = training_set(manifest)
    rows: Counter[tuple[int, int]] = Counter()
    for step, batch in enumerate(batches(dataset, range(90), workers=workers)):
        wanted = [
            dataset.mixture.sample_at(p).sample for p in range(step * BATCH, (step + 1) * BATCH)
        ]
        assert batch.image_ids.tolist() == [hash_id(f"i{number}") for number in wanted]
        assert batch.faults == ()
        if image:
            assert batch.images is None
            assert batch.image_features.tolist() == [[number] * 5 for number in wanted]
        else:
            assert batch.image_features is None
            assert numbers_of(batch) == wanted
        if text:
            assert batch.tokens is None
            assert batch.token_mask is None
            assert batch.text_features[:, 0].tolist() == wanted
            rows.update((n % 3, int(row)) for n, row in batch.text_features[:, :2].tolist())
        else:
            assert batch.text_features is None
            assert [int(c.split()[0]) for c in captions_of(batch)] == wanted
    if text:
        assert set(rows) == {(0, 0), (1, 0), (1, 1), (2, 0), (2, 1), (2, 2)}
        assert abs(rows[1, 0] - rows[1, 1]) < 4 * (rows[1, 0] + rows[1, 1]) ** 0.5
        assert min(rows[2, row] for row in range(3)) > 80


def test_features_need_no_captions(tmp_path: Path) -> None:
    samples = {
        f"{n}": {"image.npy": npy(np.full(2, n)), "text.npy": npy(np.full((1, 2), n))}
        for n in range(20)
    }
    (batch,) = batches(training_set(write_shards(tmp_path, [samples])), range(1))
    assert batch.faults == ()
    assert batch.image_features.equal(batch.text_features)
    assert len(set(batch.image_ids.tolist())) == BATCH


def test_sets_that_do_not_go_together_are_refused(tmp_path: Path, shards: Manifest) -> None:
    wide = write_shards(tmp_path / "wide", [featured(9, width=6)])
    narrow = write_shards(tmp_path / "narrow", [featured(9)])
    half = write_shards(tmp_path / "half", [featured(9, text=False)])
    for pair in [(wide, narrow), (narrow, half), (shards, narrow)]:
        with pytest.raises(UserError, match=r"^data\.train: some data sets hold features, [^\n]*$"):
            batches(training_set(*pair), range(1))


def test_the_first_usable_sample_says_what_all_are_like(tmp_path: Path) -> None:
    samples = featured(40)
    for n in range(10):
        samples[f"{n:05d}"] = {"image.npy": b"cut", "text.npy": b""}
    manifest = write_shards(tmp_path, [samples])
    found = batches(training_set(manifest, window=8), range(4))
    assert {batch.image_features.shape for batch in found} == {(BATCH, 5)}


def test_a_set_of_which_nothing_can_be_used_is_refused_with_a_cause(tmp_path: Path) -> None:
    samples = {f"{n:05d}": {"png": encode(plain(n))} for n in range(PROBED + 5)}
    manifest = write_shards(tmp_path, [samples])
    with pytest.raises(UserError) as caught:
        batches(training_set(manifest), range(1))
    assert re.fullmatch(
        rf"none of the first samples of {tmp_path} can be used \(the last \S*000000\.tar, 00063: "
        r"no caption: expected captions in its json, or a txt\); run `python -m shards check \S+`",
        str(caught.value),
    )


def test_a_batch_moves_whole_and_a_fault_can_be_printed() -> None:
    fault = Fault("s.tar", "caf\udce9", "jpg is empty")
    batch = Batch(images=torch.zeros(1), faults=(fault,)).to(torch.device("cpu"))
    assert batch.faults == (fault,)
    assert batch.tokens is None
    assert str(fault).encode() == b"s.tar, caf\\udce9: jpg is empty"


@pytest.mark.parametrize("positives", ["image", "caption", "label"])
def test_positives_have_an_image_a_caption_or_a_label_in_common(
    positives: str, tmp_path: Path
) -> None:
    captions = ["a cat", "A  cat", "a dog", "a cat", "a dog", "a bird"]
    ids, labels = [1, 2, 3, 4, 3, 5], ["x", "y", "x", "z", "x", "y"]
    samples = {
        f"{n}": {
            "png": encode(plain(n)),
            "json": described([captions[n]], image_id=ids[n], labels=[labels[n], "other"]),
        }
        for n in range(6)
    }
    manifest = write_shards(tmp_path, [samples])
    dataset = training_set(manifest, lanes=2, window=2, crop=None, flip=False, positives=positives)
    found = global_batches(dataset, range(2), size=6, ranks=2)
    names = {
        "image": ids,
        "caption": ["cat", "cat", "dog", "cat", "dog", "bird"],
        "label": labels,
    }[positives]
    for batch in found:
        numbers = [number_of(image) for image in batch["images"].numpy()]
        assert sorted(numbers) == list(range(6))
        same = [[names[one] == names[other] for one in numbers] for other in numbers]
        assert (batch["image_ids"][:, None] == batch["image_ids"]).tolist() == same
