import errno
import multiprocessing
import os
import pickle
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmodal.data.storage import LocalStorage
from xmodal.data.storage.cache import CachedStorage
from xmodal.errors import UserError

PIECE = 1000
FORK = multiprocessing.get_context("fork")


class Counting(LocalStorage):
    """A storage that knows what was read of it."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: Counter[tuple[str, int]] = Counter()

    def read(self, url: str, start: int = 0, stop: int | None = None) -> bytes:
        self.reads[url, start] += 1
        return super().read(url, start, stop)


def write(path: Path, num_bytes: int) -> bytes:
    data = random.Random(num_bytes).randbytes(num_bytes)
    path.write_bytes(data)
    return data


def held(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*") if path.suffix != ".lock")


@given(
    st.lists(st.tuples(st.integers(0, 6000), st.integers(0, 6000)), max_size=20),
    st.integers(1, 5000),
    st.sampled_from([0, 1500, 10_000]),
)
def test_reads_are_those_of_the_storage(
    tmp_path_factory: pytest.TempPathFactory,
    ranges: list[tuple[int, int]],
    num_bytes: int,
    limit: int,
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    data = write(folder / "file", num_bytes)
    cached = CachedStorage(LocalStorage(), folder / "cache", limit, PIECE)
    for start, stop in ranges:
        assert cached.read(str(folder / "file"), start, stop) == data[start:stop]
        assert held(folder / "cache") <= limit + PIECE + 100
    assert cached.read(str(folder / "file"), 3) == data[3:]


def test_what_is_kept_is_not_read_again(tmp_path: Path) -> None:
    data = write(tmp_path / "file", 3500)
    storage = Counting()
    cached = CachedStorage(storage, tmp_path / "cache", 10_000, PIECE)
    for _ in range(2):
        assert cached.read(str(tmp_path / "file"), 100, 3400) == data[100:3400]
    again = CachedStorage(storage, tmp_path / "cache", 10_000, PIECE)
    assert again.read(str(tmp_path / "file"), 2000, 2001) == data[2000:2001]
    assert max(storage.reads.values()) == 1


def test_the_least_recently_used_make_room(tmp_path: Path) -> None:
    write(tmp_path / "file", 10 * PIECE)
    storage, url = Counting(), str(tmp_path / "file")
    cached = CachedStorage(storage, tmp_path / "cache", 4 * PIECE + 100, PIECE)
    for first in (0, 1, 2, 0, 3, 4, 0):
        cached.read(url, first * PIECE, first * PIECE + 10)
        time.sleep(0.01)  # as fine as the clock of files
    assert storage.reads[url, 0] == 1
    cached.read(url, PIECE, PIECE + 10)
    assert storage.reads[url, PIECE] == 2


def test_a_changed_file_is_read_anew(tmp_path: Path) -> None:
    path, url = tmp_path / "file", str(tmp_path / "file")
    write(path, 500)
    assert CachedStorage(LocalStorage(), tmp_path / "cache", 9999, PIECE).read(url, 0, 9)
    path.write_bytes(b"other")
    assert (
        CachedStorage(LocalStorage(), tmp_path / "cache", 9999, PIECE).read(url, 0, 9) == b"other"
    )


@pytest.mark.parametrize("damage", [b"", b"cut", None])
def test_a_damaged_or_vanished_piece_is_read_again(tmp_path: Path, damage: bytes | None) -> None:
    data = write(tmp_path / "file", 500)
    cached = CachedStorage(LocalStorage(), tmp_path / "cache", 9999, PIECE)
    cached.read(str(tmp_path / "file"), 0, 500)
    (piece,) = (tmp_path / "cache").glob("*.piece")
    piece.unlink()
    if damage is not None:
        piece.write_bytes(damage)
    assert cached.read(str(tmp_path / "file"), 0, 500) == data


def test_a_full_disk_means_no_keeping_and_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write(tmp_path / "file", 3500)
    cached = CachedStorage(LocalStorage(), tmp_path / "cache", 99_999, PIECE)
    said: list[str] = []
    cached.say = said.append

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        assert cached.read(str(tmp_path / "file"), 0, 3500) == data
    assert said == [f"the cache {tmp_path / 'cache'} keeps no more: No space left on device"]


def test_a_folder_with_other_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UserError, match=r"holds thesis\.tex"):
        CachedStorage(LocalStorage(), tmp_path, 0, PIECE)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_comes_later_into_the_folder_is_not_deleted(tmp_path: Path) -> None:
    write(tmp_path / "file", 9500)
    cached = CachedStorage(LocalStorage(), tmp_path / "cache", 2 * PIECE, PIECE)
    (tmp_path / "cache" / "thesis.tex").write_text("mine")
    cached.read(str(tmp_path / "file"), 0, 9500)
    assert (tmp_path / "cache" / "thesis.tex").read_text() == "mine"


def test_threads_that_want_the_same_piece_read_it_once(tmp_path: Path) -> None:
    data = write(tmp_path / "file", 900)

    class Slow(Counting):
        def read(self, url: str, start: int = 0, stop: int | None = None) -> bytes:
            time.sleep(0.1)
            return super().read(url, start, stop)

    storage, read = Slow(), []
    cached = CachedStorage(storage, tmp_path / "cache", 9999, PIECE)
    threads = [
        threading.Thread(target=lambda: read.append(cached.read(str(tmp_path / "file"), 0, 900)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read == [data] * 8
    assert storage.reads.total() == 1


def test_it_survives_pickling(tmp_path: Path) -> None:
    data = write(tmp_path / "file", 900)
    cached = CachedStorage(Plain(), tmp_path / "cache", 9999, PIECE)
    assert pickle.loads(pickle.dumps(cached)).read(str(tmp_path / "file"), 1, 9) == data[1:9]


class Plain(LocalStorage):
    """A local storage that can be sent to another process, as one of a bucket can."""

    def __getstate__(self) -> dict[str, object]:
        return {}

    def __setstate__(self, _: object) -> None:
        self.__init__()  # type: ignore[misc]


def read_at_random(cached: CachedStorage, url: str, data: bytes, seed: int) -> None:
    draw = random.Random(seed)
    for _ in range(200):
        start = draw.randrange(len(data))
        stop = start + draw.randrange(3 * PIECE)
        if cached.read(url, start, stop) != data[start:stop]:
            os._exit(1)
    os._exit(0)


def test_four_processes_share_it_and_hold_its_limit(tmp_path: Path) -> None:
    data, url, limit = write(tmp_path / "file", 30 * PIECE), str(tmp_path / "file"), 10 * PIECE
    cached = CachedStorage(LocalStorage(), tmp_path / "cache", limit, PIECE)
    given = [(cached, url, data, seed) for seed in range(4)]
    processes = [FORK.Process(target=read_at_random, args=each) for each in given]
    for process in processes:
        process.start()
    while any(process.is_alive() for process in processes):
        assert seen(tmp_path / "cache") <= limit + 4 * PIECE
    assert [process.exitcode for process in processes] == [0] * 4


def test_a_killed_process_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    data, url = write(tmp_path / "file", 30 * PIECE), str(tmp_path / "file")
    for seed in range(8):
        cached = CachedStorage(LocalStorage(), tmp_path / "cache", 5 * PIECE, PIECE)
        process = FORK.Process(target=read_at_random, args=(cached, url, data, seed))
        process.start()
        time.sleep(random.Random(seed).uniform(0.002, 0.03))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    cached = CachedStorage(LocalStorage(), tmp_path / "cache", 5 * PIECE, PIECE)
    assert not list((tmp_path / "cache").glob("*.part"))
    assert cached.read(url, 0, len(data)) == data
    assert held(tmp_path / "cache") <= 5 * PIECE


def seen(folder: Path) -> int:
    """What is held, as far as it does not vanish while it is counted."""
    total = 0
    for path in folder.glob("*.p*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            return 0
    return total
