"""Work on many shards in processes of its own, with a bar of what is done."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import TypeVar

from xmodal.errors import UserError

Job = TypeVar("Job")
Result = TypeVar("Result")

_SECONDS_BETWEEN_LINES = 10


def available_cpus() -> int:
    """The number of CPUs this process may use."""
    return len(os.sched_getaffinity(0))


def run_parallel(
    function: Callable[[Job], Result], jobs: Iterable[Job], workers: int
) -> Iterator[tuple[Job, Result]]:
    """Call the function on every job in `workers` processes; yield each as it is done.

    Whatever ends the loop early ends the processes too.
    """
    before = set(multiprocessing.active_children())
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawn, initializer=_end_with_parent) as pool:
        futures = {pool.submit(function, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures.pop(future), future.result()
        except BaseException as error:
            for process in set(multiprocessing.active_children()) - before:
                process.terminate()
            if isinstance(error, BrokenProcessPool):
                raise UserError(
                    "a worker process was killed, for want of memory? Run the same command again, "
                    "with fewer --workers"
                ) from None
            raise


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how far `total` steps are, and give the function that says how many more are done.

    A bar where stderr is a terminal, otherwise a line now and then.
    """
    show = _bar if sys.stderr.isatty() else _lines
    with show(what, total) as advance:
        yield advance


@contextmanager
def _bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    # Bars are for terminals alone, and take a while to import.
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from xmodal.terminal import console

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console(stderr=True)) as bar:
        task = bar.add_task(what, total=total)
        yield lambda steps: bar.advance(task, steps)


@contextmanager
def _lines(what: str, total: int) -> Iterator[Callable[[int], None]]:
    done, last = 0, time.monotonic()

    def advance(steps: int) -> None:
        nonlocal done, last
        done += steps
        if done == total or time.monotonic() - last > _SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            print(f"{what}: {done:,} of {total:,}", file=sys.stderr, flush=True)

    yield advance


def _end_with_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C, for all
    threading.Thread(target=_exit_when_orphaned, daemon=True).start()


def _exit_when_orphaned() -> None:
    # A worker that outlived a killed build would write into the one that resumes it.
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
