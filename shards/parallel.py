"""Parallel work on many shards in worker processes, with a progress bar."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait
from typing import Any, TypeVar

from xmodal.activity import activity, printed
from xmodal.components.plugins import import_plugins, imported_plugins
from xmodal.errors import UserError

Job = TypeVar("Job")
Result = TypeVar("Result")

_SECONDS_BETWEEN_COUNTS = 0.5


def available_cpus() -> int:
    """Return the number of CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def run_parallel(
    function: Callable[[Job], Result],
    jobs: Iterable[Job],
    workers: int,
    advance: Callable[[int], None] = lambda _: None,
) -> Iterator[tuple[Job, Result]]:
    """Call the function on every job in `workers` processes; yield each as it is done.

    `advance` is called with the steps that the function counts by `count()`, while it runs. The
    processes end when the loop ends, even early.
    """
    before = set(multiprocessing.active_children())
    spawn = multiprocessing.get_context("spawn")
    counted = spawn.Value("q", 0)
    plugins = list(imported_plugins())
    pool = ProcessPoolExecutor(
        workers, spawn, initializer=_begin_worker, initargs=(counted, plugins)
    )
    with pool, _passed_on(counted, advance):
        futures = {pool.submit(function, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures.pop(future), future.result()
        except BaseException as error:
            for process in set(multiprocessing.active_children()) - before:
                process.terminate()
            if isinstance(error, BrokenProcessPool):
                raise UserError(
                    "a worker process was killed, perhaps out of memory: rerun the same "
                    "command with fewer --workers"
                ) from None
            raise


@contextmanager
def _passed_on(counted: Any, advance: Callable[[int], None]) -> Iterator[None]:
    """Give the steps that workers count to `advance`, in a thread, the last ones at the end."""
    over = threading.Event()

    def pass_on() -> None:
        passed = 0
        while True:
            ended = over.wait(_SECONDS_BETWEEN_COUNTS)
            now = counted.value
            advance(now - passed)
            passed = now
            if ended:
                return

    thread = threading.Thread(target=pass_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def count(steps: int = 1) -> None:
    """Count steps of this worker's job; does nothing in other processes."""
    if _counted is not None:
        with _counted.get_lock():
            _counted.value += steps


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show progress over `total` steps; yields the function that counts steps.

    A bar if stderr is a terminal, otherwise a line at the end and after ten silent seconds.
    """
    show = _bar if sys.stderr.isatty() else _lines
    with show(what, total) as advance:
        yield advance


@contextmanager
def _bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    # Bars are for terminals alone, and take a while to import.
    from xmodal.terminal import console

    with Progress(*columns, TimeRemainingColumn(), console=console(stderr=True)) as bar:
        task = bar.add_task(escape(what), total=total)
        yield lambda steps: bar.advance(task, steps)


@contextmanager
def _lines(what: str, total: int) -> Iterator[Callable[[int], None]]:
    with activity(f"{what}:", total) as steps:
        yield steps.advance
        if steps.done == total:
            print(steps, file=sys.stderr, flush=True)
            printed()


_counted: Any = None


def _begin_worker(counted: Any, plugins: Sequence[str]) -> None:
    global _counted  # noqa: PLW0603 - a process has one
    _counted = counted
    import_plugins(plugins)
    _end_with_parent()


def _end_with_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers Ctrl-C, for all
    threading.Thread(target=_exit_when_orphaned, daemon=True).start()


def _exit_when_orphaned() -> None:
    # A worker that outlived a killed build would write into the one that resumes it.
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
