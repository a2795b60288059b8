"""Positions' samples in order: each block is read once, some way ahead, while others are used."""

import dataclasses
import gc
import threading
import time
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.shard_sets import numbered, write_shards
from tests.training_sets import Read, mixture_of, samples_in, watched
from xmodal.data.manifest import Manifest
from xmodal.data.mixture import Mixture
from xmodal.data.reader import SampleReader
from xmodal.data.samples import RawSample
from xmodal.data.storage.local import LocalStorage
from xmodal.data.stream import Stream
from xmodal.errors import UserError

COUNT = 240


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Shards of 1 to 100 samples, `COUNT` in all."""
    samples, parts = list(numbered(COUNT, captions=1).items()), []
    for size in (100, 1, 60, 7, 72):
        parts.append(dict(samples[:size]))
        samples = samples[size:]
    return write_shards(tmp_path_factory.mktemp("set"), parts)


def part_of(shards: Manifest, chosen: set[int]) -> Manifest:
    return dataclasses.replace(shards, shards=tuple(shards.shards[number] for number in chosen))


def stream_of(mixture: Mixture, *manifests: Manifest) -> Stream:
    return Stream([SampleReader(one) for one in manifests], mixture)


def wait_for(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert true()


def settled(manifest: Manifest) -> list[Read]:
    """What has been read once nothing more is."""
    before = -1
    while before != (now := len(manifest.storage.reads())):
        before = now
        time.sleep(0.05)
    return manifest.storage.reads()


@given(
    st.lists(st.sets(st.integers(0, 4), min_size=1), min_size=1, max_size=3),
    st.integers(3, 30),
    st.integers(1, 80),
    st.integers(0, 1000),
    st.booleans(),
    st.data(),
)
@settings(max_examples=40)
def test_every_position_has_its_sample(
    shards: Manifest,
    chosen: list[set[int]],
    lanes: int,
    window: int,
    start: int,
    far: bool,
    data: st.DataObject,
) -> None:
    """Of all lanes or some, from wherever it begins: amid blocks, over the seams of epochs."""
    storage = LocalStorage()
    storage.far = far
    sets = [dataclasses.replace(part_of(shards, one), storage=storage) for one in chosen]
    mixture = mixture_of(*sets, lanes=lanes, window=window)
    mine = data.draw(st.sets(st.integers(0, lanes - 1), min_size=1))
    positions = [p for p in range(start, start + 3 * COUNT) if p % lanes in mine]
    stream = stream_of(mixture, *sets)
    found = list(stream.samples(positions, start + 3 * COUNT))
    stream.close()
    assert [position for position, _ in found] == positions
    readers = [SampleReader(one) for one in sets]
    for position, sample in found:
        place = mixture.sample_at(position)
        shard, wanted = readers[place.data_set].locate(place.sample)
        assert (sample.shard, sample.key) == (shard.url, wanted.key)
        assert sample.files["json"] is not None


@pytest.mark.parametrize("far", [True, False])
@pytest.mark.parametrize("window", [1, 4, 64])
def test_an_epoch_reads_every_sample_once(
    shards: Manifest, tmp_path: Path, window: int, far: bool
) -> None:
    shards = watched(shards, tmp_path / "log", far=far)
    stream = stream_of(mixture_of(shards, window=window), shards)
    assert len(list(stream.samples(range(COUNT), COUNT))) == COUNT
    assert samples_in(shards, shards.storage.reads()) == list(range(COUNT))
    stream.close()


def test_a_block_is_read_in_one_piece_within_a_shard(tmp_path: Path) -> None:
    shards = watched(write_shards(tmp_path / "set", [numbered(96)]), tmp_path / "log")
    mixture = mixture_of(shards, lanes=4, window=8)
    stream = stream_of(mixture, shards)
    list(stream.samples(range(96), 96))
    stream.close()
    blocks = {mixture.plans[0].block_at(position)[0] for position in range(96)}
    assert len(shards.storage.reads()) == len(blocks)


def test_a_stream_that_begins_amid_blocks_reads_only_what_is_left_of_them(
    tmp_path: Path,
) -> None:
    shards = watched(write_shards(tmp_path / "set", [numbered(96)]), tmp_path / "log")
    mixture = mixture_of(shards, lanes=1, window=96)
    block = mixture.plans[0].block_at(95)[0]
    start = block.stop - 3
    stream = stream_of(mixture, shards)
    found = [sample.key for _, sample in stream.samples(range(start, 96), 96)]
    stream.close()
    read = samples_in(shards, shards.storage.reads())
    assert {f"{number:05d}" for number in read} >= set(found)
    assert len(found) == 3
    assert len(shards.storage.reads()) <= 3


@pytest.mark.parametrize(("far", "blocks"), [(True, 1.5), (False, 1)])
@pytest.mark.parametrize(("lanes", "window"), [(6, 40), (20, 12), (1, 240)])
def test_no_more_than_a_block_and_a_half_a_lane_is_in_memory(
    shards: Manifest, tmp_path: Path, lanes: int, window: int, far: bool, blocks: float
) -> None:
    """Counted at the storage: what has been read and is not taken yet."""
    shards = watched(shards, tmp_path / "log", far=far)
    stream = stream_of(mixture_of(shards, lanes=lanes, window=window), shards)
    held = []
    for taken, _ in enumerate(islice(stream.samples(range(10**6), 10**6), 400), start=1):
        if taken % 20 == 0:
            held.append(len(samples_in(shards, settled(shards))) - taken)
    stream.close()
    lane = min(window, -(-COUNT // lanes))  # samples of a block
    assert max(held) <= lanes * lane * blocks + lanes
    assert max(held) >= lanes * lane * 0.3  # less than whole, where lanes come round


@pytest.mark.parametrize("far", [True, False])
def test_samples_are_let_go_when_they_are_taken(
    shards: Manifest, tmp_path: Path, far: bool
) -> None:
    shards = watched(shards, tmp_path / "log", far=far)
    stream = stream_of(mixture_of(shards, lanes=2, window=16), shards)
    before = alive()
    samples = stream.samples(range(10**6), 10**6)
    for taken in range(1, 100):
        next(samples)
        if taken % 9 == 0:
            read = len(samples_in(shards, settled(shards)))
            assert alive() - before <= read - taken
    stream.close()


def alive() -> int:
    """Number of samples in memory."""
    return sum(type(one) is RawSample for one in gc.get_objects())


class Slow:
    """Lasts a while; to be called before reads. Knows how many of them are under way."""

    def __init__(self) -> None:
        self.lock, self.now, self.most = threading.Lock(), 0, 0

    def __call__(self, _: str) -> None:
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
        time.sleep(0.05)
        with self.lock:
            self.now -= 1


@pytest.mark.parametrize("lanes", [1, 8])
def test_a_slow_storage_is_overlapped(shards: Manifest, tmp_path: Path, lanes: int) -> None:
    """Samples are used while it is read; of many lanes, many reads are under way at a time."""
    slow = Slow()
    shards = watched(shards, tmp_path / "log", slow, far=True)
    stream = stream_of(mixture_of(shards, lanes=lanes, window=8), shards)
    used = 0
    for _ in stream.samples(range(COUNT), COUNT):
        time.sleep(0.005)
        used += slow.now > 0
    stream.close()
    assert len(shards.storage.reads()) > 25
    assert used > COUNT // 10
    assert slow.most >= lanes // 2


def test_reads_go_on_while_a_sample_is_used(shards: Manifest, tmp_path: Path) -> None:
    shards = watched(shards, tmp_path / "log", lambda _: time.sleep(0.05), far=True)
    stream = stream_of(mixture_of(shards, lanes=4, window=16), shards)
    samples = stream.samples(range(10**6), 10**6)
    next(samples)
    before = len(shards.storage.reads())
    for _ in range(40):
        time.sleep(0.01)  # at work
        next(samples)
    assert len(shards.storage.reads()) > before
    stream.close()


def test_of_what_is_near_the_system_is_told_half_a_block_ahead(
    shards: Manifest, tmp_path: Path
) -> None:
    """And reads nothing that is not its turn: memory is a block a lane."""
    shards = watched(shards, tmp_path / "log")
    lanes, window = 4, 16
    stream = stream_of(mixture_of(shards, lanes=lanes, window=window), shards)
    list(stream.samples(range(COUNT), COUNT))
    # Each sample is told of once; at borders of shards so is what is not in the block.
    told = Counter(samples_in(shards, shards.storage.told))
    assert set(told) == set(range(COUNT))
    assert sum(told.values()) <= COUNT + lanes * window
    shards.storage.told.clear()
    samples = stream.samples(range(10**6), 10**6)
    for taken in range(1, 200):
        next(samples)
        if taken % 40 == 0:
            ahead = len(samples_in(shards, shards.storage.told)) - taken
            assert 0 < ahead <= lanes * window * 1.5 + lanes
    stream.close()


@pytest.mark.parametrize("far", [True, False])
def test_waits_are_told_by_shard(shards: Manifest, tmp_path: Path, far: bool) -> None:
    slow = shards.shards[2].url
    shards = watched(shards, tmp_path / "log", lambda url: time.sleep(0.1 * (url == slow)), far=far)
    stream = stream_of(mixture_of(shards, lanes=4, window=8), shards)
    list(stream.samples(range(COUNT), COUNT))
    stream.close()
    # A wait is that for the shard of a block's first sample.
    assert set(stream.waited) >= {shard.url for shard in shards.shards if shard.num_samples > 8}
    # Some samples of others share a block, and so a wait, with those of the slow one.
    assert max(stream.waited, key=lambda url: stream.waited[url]) == slow
    assert stream.waited[slow] > 0.08


@pytest.mark.parametrize("far", [True, False])
def test_a_mistake_that_the_storage_finds_comes_out(
    shards: Manifest, tmp_path: Path, far: bool
) -> None:
    gone = shards.shards[3].url

    def refuse(url: str) -> None:
        if url == gone:
            raise UserError("the bucket may not be read")

    shards = watched(shards, tmp_path / "log", refuse, far=far)
    stream = stream_of(mixture_of(shards), shards)
    taken = []
    with pytest.raises(UserError, match=r"^the bucket may not be read$"):
        taken += stream.samples(range(COUNT), COUNT)
    stream.close()


def test_neighbours_are_read_out_of_turn(shards: Manifest) -> None:
    mixture = mixture_of(shards)
    stream = stream_of(mixture, shards)
    place = mixture.neighbours(100, 1)[0]
    assert stream.load(place).key == f"{place.sample:05d}"
    stream.close()


def test_a_stream_that_is_closed_ends_its_threads(shards: Manifest, tmp_path: Path) -> None:
    shards = watched(shards, tmp_path / "log", lambda _: time.sleep(0.02), far=True)
    stream = stream_of(mixture_of(shards, lanes=20, window=2), shards)
    next(stream.samples(range(10**6), 10**6))
    stream.close()
    threads = stream.threads._threads
    assert len(threads) > 1
    wait_for(lambda: not any(thread.is_alive() for thread in threads))
    assert len(shards.storage.reads()) < 40


def test_sets_of_unlike_sizes_are_read_alike(shards: Manifest, tmp_path: Path) -> None:
    """A small set comes round often; its blocks are read once in each of its epochs."""
    small = watched(part_of(shards, {3}), tmp_path / "small")
    large = watched(shards, tmp_path / "large")
    mixture = mixture_of(small, large, lanes=8, window=4)
    stream = stream_of(mixture, small, large)
    list(stream.samples(range(2 * COUNT), 2 * COUNT))
    stream.close()
    assert samples_in(large, large.storage.reads()) == list(range(COUNT))
    rounds = Counter(samples_in(small, small.storage.reads()))
    assert set(rounds) == set(range(7))
    assert max(rounds.values()) - min(rounds.values()) <= 1
