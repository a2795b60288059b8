"""Batches filled by processes in memory they share: in order, whole, and nothing is left behind."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from xmodal.data.ring import SLOTS, Layout, Ring, Slot
from xmodal.errors import LostPeerError, UserError

LAYOUT: Layout = {
    "values": ((4, 3), np.float32),
    "flags": ((4,), np.bool_),
    "none": ((4, 0), np.int64),
}
WORKERS = [0, 1, 3]


def fill(worker: int, workers: int, slots: Iterable[Slot]) -> Iterator[tuple[int, int]]:
    """Write each batch's number into the worker's rows."""
    for step, slot in enumerate(slots):
        slot["values"][worker::workers] = float(step)
        slot["flags"][worker::workers] = bool(step % 2)
        yield worker, step


def failing(how: Callable[[], None]) -> Callable[[int, int, Iterable[Slot]], Iterator[int]]:
    """What the last worker does at its third batch."""

    def fill(worker: int, workers: int, slots: Iterable[Slot]) -> Iterator[int]:
        for step, _ in enumerate(slots):
            if step == 2 and worker == workers - 1:
                how()
            yield step

    return fill


def children() -> set[int]:
    """Process ids of this process's children that are not over."""
    folder = Path(f"/proc/self/task/{os.getpid()}/children")
    return {int(pid) for pid in folder.read_text().split() if alive(int(pid))}


def alive(pid: int) -> bool:
    try:
        # What nobody has asked for its exit code is over all the same.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("steps", [0, 1, 2, 3, 25])
def test_batches_come_in_order_with_the_notes_of_all_workers(steps: int, workers: int) -> None:
    found = []
    for step, (slot, notes) in enumerate(Ring(fill, LAYOUT, steps, workers)):
        assert notes == [(worker, step) for worker in range(max(1, workers))]
        assert slot["values"].eq(step).all()
        assert slot["flags"].eq(bool(step % 2)).all()
        assert all(isinstance(one, torch.Tensor) for one in slot.values())
        shapes = {name: (tuple(one.shape), one.numpy().dtype) for name, one in slot.items()}
        assert shapes == LAYOUT
        found.append(step)
    assert found == list(range(steps))


@pytest.mark.parametrize("workers", WORKERS)
def test_a_batch_holds_until_the_next_but_one_is_asked_for(workers: int) -> None:
    before = None
    for step, (slot, _) in enumerate(Ring(fill, LAYOUT, 3 * SLOTS, workers)):
        time.sleep(0.02)  # workers write wherever they may
        assert slot["values"].eq(step).all()
        if before is not None:
            assert before["values"].eq(step - 1).all()
        before = slot


@pytest.mark.parametrize(("workers", "slots"), [(0, 2), (1, SLOTS), (3, SLOTS)])
def test_the_same_memory_is_used_again(workers: int, slots: int) -> None:
    places = [slot["values"].data_ptr() for slot, _ in Ring(fill, LAYOUT, 3 * slots, workers)]
    assert len(set(places)) == slots
    assert places[:slots] * 3 == places


def test_workers_fill_no_slot_that_is_not_free() -> None:
    """The batch in use and the one before are not written; the others are filled ahead."""
    batches = iter(Ring(fill, LAYOUT, 20, 1))
    memory = [next(batches)[0]["values"] for _ in range(SLOTS)]
    time.sleep(0.3)
    # Batches 0 and 1 were given back when 2 and 3 were asked for.
    assert [int(slot[0, 0]) for slot in memory] == [4, 5, 2, 3]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_killed_worker_is_one_line(workers: int) -> None:
    before = children()
    killed = failing(lambda: os.kill(os.getpid(), signal.SIGKILL))
    batches = iter(Ring(killed, LAYOUT, 100, workers))
    next(batches), next(batches)
    with pytest.raises(
        LostPeerError, match=r"^a loading process was killed \(exit code -9\)[^\n]*$"
    ):
        next(batches)
    assert children() == before


def test_a_worker_killed_amid_a_note_is_one_line() -> None:
    def half(worker: int, workers: int, slots: Iterable[Slot]) -> Iterator[str]:
        for _ in slots:
            killer = f"sleep 0.3; kill -9 {os.getpid()}"
            os.posix_spawn("/bin/sh", ["sh", "-c", killer], {})
            yield "x" * 10**6  # more than a pipe holds

    batches = iter(Ring(half, LAYOUT, 100, 1))
    receive = multiprocessing.connection.Connection._recv

    def slowly(self: object, size: int, *rest: object) -> object:
        time.sleep(0.5 if size > 10**5 else 0)
        return receive(self, size, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multiprocessing.connection.Connection, "_recv", slowly)
        with pytest.raises(LostPeerError, match=r"^a loading process was killed \(exit code -9\)"):
            next(batches)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_mistake_of_the_user_comes_as_it_is(workers: int) -> None:
    def mistake() -> None:
        raise UserError("shard x is gone")

    before = children()
    with pytest.raises(UserError, match=r"^shard x is gone$"):
        list(Ring(failing(mistake), LAYOUT, 100, workers))
    assert children() == before


@pytest.mark.parametrize("workers", [1, 3])
def test_a_bug_in_a_worker_comes_with_its_traceback(workers: int) -> None:
    def bug() -> None:
        raise ZeroDivisionError("in the worker")

    before = children()
    with pytest.raises(RuntimeError) as caught:
        list(Ring(failing(bug), LAYOUT, 100, workers))
    text = str(caught.value)
    assert text.startswith(f"loading process {workers - 1} failed:\nTraceback")
    assert "test_ring.py" in text
    assert text.rstrip().endswith("ZeroDivisionError: in the worker")
    assert children() == before


def test_errors_without_workers_are_themselves() -> None:
    def bug() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(Ring(failing(bug), LAYOUT, 100, 0))


def test_batches_before_an_error_are_given_first() -> None:
    def bug() -> None:
        raise UserError("x")

    batches = iter(Ring(failing(bug), LAYOUT, 100, 2))
    assert [next(batches)[1] for _ in range(2)] == [[0, 0], [1, 1]]
    with pytest.raises(UserError):
        next(batches)


@pytest.mark.parametrize("how", ["closed", "dropped", "left"])
def test_workers_end_with_the_loop(how: str) -> None:
    before = children()
    batches = iter(Ring(fill, LAYOUT, 10**6, 2))
    next(batches)
    assert len(children() - before) == 2
    if how == "closed":
        batches.close()
    elif how == "dropped":
        del batches
    else:
        for _ in batches:
            break
        del batches
    assert children() == before


def test_a_fill_without_workers_is_closed_with_the_loop() -> None:
    ended = []

    def noting(worker: int, workers: int, slots: Iterable[Slot]) -> Iterator[None]:
        try:
            for _ in slots:
                yield
        finally:
            ended.append(True)

    batches = iter(Ring(noting, LAYOUT, 10, 0))
    next(batches)
    batches.close()
    assert ended == [True]


def train_for_ever(told: "multiprocessing.connection.Connection", busy: bool) -> None:
    def working(worker: int, workers: int, slots: Iterable[Slot]) -> Iterator[int]:
        for _ in slots:
            if busy:
                time.sleep(0.05)
            yield os.getpid()

    for _, notes in Ring(working, LAYOUT, 10**6, 3):
        told.send(notes)
        time.sleep(0.01 if busy else 60)


@pytest.mark.parametrize("busy", [True, False])
def test_workers_end_when_the_trainer_is_killed(busy: bool) -> None:
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    trainer = context.Process(target=train_for_ever, args=(sending, busy))
    trainer.start()
    workers = receiving.recv()
    assert all(map(alive, workers))
    trainer.kill()
    trainer.join()
    deadline = time.monotonic() + 60
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, workers))


def test_ctrl_c_is_the_trainers_to_answer() -> None:
    """A terminal sends it to all processes; workers that died of it would print tracebacks."""

    def interrupted(worker: int, workers: int, slots: Iterable[Slot]) -> Iterator[None]:
        for _ in slots:
            os.kill(os.getpid(), signal.SIGINT)
            yield

    assert len(list(Ring(interrupted, LAYOUT, 6, 2))) == 6
