"""Worker processes that fill batches in memory shared with the trainer.

Each batch lies in one of a few slots, used in turn. Every worker fills its own rows of each batch
in place, so that no image is copied; data other than tensors is sent as a small note.
"""

import ctypes
import gc
import math
import mmap
import os
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Semaphore
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xmodal.data.forked import fork_context
from xmodal.errors import LostPeerError, UserError

_ALIGNED = 64  # bytes, of a line of a processor's cache
SLOTS = 4  # one in use, one complete, and two that workers of different speed are at
Space = tuple[tuple[int, ...], type]  # a tensor's shape and kind
Layout = Mapping[str, Space]
Slot = dict[str, np.ndarray]
# What a worker of so many does: fill its part of slot after slot, and say something of each.
Filler = Callable[[int, int, Iterable[Slot]], Iterator[Any]]


class Ring:
    """Iterates over the batches of `fill`, each a slot with the notes of all workers.

    A slot's tensors are valid until the second next one is requested. Errors of `fill` are raised
    again: `UserError` unchanged, others with the worker's traceback.
    """

    def __init__(self, fill: Filler, layout: Layout, steps: int, workers: int) -> None:
        self.steps = steps
        self._memory, self._slots = _allocate(layout, SLOTS if workers else 2)
        self._start: Callable[[], _Workers | _InProcess] = (
            (lambda: _Workers(fill, self._slots, steps, workers))
            if workers
            else (lambda: _InProcess(fill, self._slots, steps))
        )

    def __iter__(self) -> Iterator[tuple[dict[str, Tensor], list[Any]]]:
        tensors = [
            {name: torch.from_numpy(array) for name, array in slot.items()} for slot in self._slots
        ]
        used: deque[Callable[[], None]] = deque()
        with _page_locked(self._memory), closing(self._start()) as source:
            for step in range(self.steps):
                notes = source.next()
                yield tensors[step % len(tensors)], notes
                used.append(_work_so_far())
                # Copies to the device of the batch that was last may still be under way.
                if len(used) == 2:
                    used.popleft()()
                    source.release()


class _InProcess:
    """No workers: a batch is filled when it is asked for."""

    def __init__(self, fill: Filler, slots: Sequence[Slot], steps: int) -> None:
        self._notes = fill(0, 1, (slots[step % len(slots)] for step in range(steps)))

    def next(self) -> list[Any]:
        return [next(self._notes)]

    def release(self) -> None:
        pass

    def close(self) -> None:
        self._notes.close()  # type: ignore[attr-defined]


class _Workers:
    """Processes, forked so that they share the slots; each works ahead as far as slots are free."""

    def __init__(self, fill: Filler, slots: Sequence[Slot], steps: int, workers: int) -> None:
        context = fork_context()
        self._processes: list[BaseProcess] = []
        self._pipes: list[Connection] = []
        self._free: list[Semaphore] = []
        for worker in range(workers):
            receiving, sending = context.Pipe(duplex=False)
            free = context.Semaphore(len(slots))
            process = context.Process(
                target=_work,
                args=(fill, worker, workers, slots, steps, free, sending),
                name=f"loader {worker}",
                daemon=True,
            )
            process.start()
            sending.close()
            self._processes.append(process)
            self._pipes.append(receiving)
            self._free.append(free)

    def next(self) -> list[Any]:
        return [self._receive(number) for number in range(len(self._pipes))]

    def release(self) -> None:
        for free in self._free:
            free.release()

    def close(self) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()

    def _receive(self, worker: int) -> Any:
        pipe, process = self._pipes[worker], self._processes[worker]
        wait([pipe, process.sentinel])
        try:
            kind, value = pipe.recv()
        except (EOFError, OSError):  # the latter amid a note
            process.join(5)
            raise LostPeerError(
                f"a loading process was killed (exit code {process.exitcode}), out of "
                "memory? Train with fewer data.workers, or a smaller data.window"
            ) from None
        if kind == "mistake":
            raise UserError(value)
        if kind == "failure":
            raise RuntimeError(f"loading process {worker} failed:\n{value}")
        return value


def _work(
    fill: Filler,
    worker: int,
    workers: int,
    slots: Sequence[Slot],
    steps: int,
    free: Semaphore,
    pipe: Connection,
) -> None:
    # Launchers and schedulers send them to every process of a job: the trainer answers, for all.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    gc.freeze()  # what the trainer holds is not garbage: not to be gone through over and over
    torch.set_num_threads(1)

    def in_turn() -> Iterator[Slot]:
        for step in range(steps):
            free.acquire()
            yield slots[step % len(slots)]

    try:
        for note in fill(worker, workers, in_turn()):
            pipe.send(("note", note))
    except UserError as error:
        pipe.send(("mistake", str(error)))
    except BrokenPipeError:
        pass  # the trainer is gone
    except BaseException:
        pipe.send(("failure", traceback.format_exc()))
    # Not by way of Python's end, which would run what the trainer has registered for its own.
    os._exit(0)


def _allocate(layout: Layout, count: int) -> tuple[mmap.mmap, list[Slot]]:
    """Return `count` slots in memory that forked processes share."""
    sizes = {
        name: -(-np.dtype(kind).itemsize * math.prod(shape) // _ALIGNED) * _ALIGNED
        for name, (shape, kind) in layout.items()
    }
    memory = mmap.mmap(-1, max(1, count * sum(sizes.values())))
    slots: list[Slot] = []
    at = 0
    for _ in range(count):
        slots.append({})
        for name, (shape, kind) in layout.items():
            slots[-1][name] = np.ndarray(shape, kind, memory, at)
            at += sizes[name]
    return memory, slots


@contextmanager
def _page_locked(memory: mmap.mmap) -> Iterator[None]:
    """Lock memory to its place, from where a GPU copies while it computes."""
    if not torch.cuda.is_available():
        yield
        return
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    runtime = torch.cuda.cudart()
    torch.cuda.check_error(int(runtime.cudaHostRegister(address, len(memory), 0)))
    try:
        yield
    finally:
        torch.cuda.synchronize()
        runtime.cudaHostUnregister(address)


def _work_so_far() -> Callable[[], None]:
    """Return what waits until the device has done all that it has been given up to now."""
    if not torch.cuda.is_available():
        return lambda: None
    event = torch.cuda.Event()
    event.record()
    return event.synchronize
