"""Forked processes that are sure to begin, and to end with the process that forked them.

A fork copies the locks that other threads hold, but not the threads that would release them. Before
3.11.10, CPython itself can wait for such a lock in the child (gh-112275): a thread of gloo that
frees a tensor as the rank forks is enough. Such a child does nothing, forever. So a child reports
that it runs, and one that does not is killed and forked again.

A process that is killed, for want of memory say, has no time to end its children; one that waits
for it, on a queue that nobody reads, would hold its memory for good. So each child watches.

What the allocator holds free is memory as well: once parent or child writes to it, there are two of
it. After a training step that is as much as all activations. So it is given back before the fork.
"""

import multiprocessing
import os
import threading
import time
from multiprocessing.connection import wait
from multiprocessing.context import ForkContext, ForkProcess
from multiprocessing.popen_fork import Popen
from typing import Any, cast

from xmodal.freed_memory import give_back_freed_memory

SECONDS = 20.0  # in which a child begins, on a machine with much else to do
ATTEMPTS = 5


class _SurePopen(Popen):
    """A child that is killed and forked again until it reports that it runs."""

    def _launch(self, process_obj: Any) -> None:
        give_back_freed_memory()
        for _ in range(ATTEMPTS):
            process_obj.handshake = handshake = _Handshake()
            super()._launch(process_obj)  # type: ignore[misc]
            if handshake.completed():
                return
            self.kill()
            self.wait()
            self.close()
            self.returncode = None
        raise RuntimeError(f"{ATTEMPTS} forked processes did not begin in {SECONDS:g} s each")


class _Handshake:
    """A byte from the child, that it runs, and one back, that it may continue.

    Without the second one, a child that begins late could be killed while it holds a lock that it
    shares with others.
    """

    def __init__(self) -> None:
        self.ready, self.child_ready = os.pipe()
        self.child_may_continue, self.may_continue = os.pipe()

    def report(self) -> None:
        """Report, in the child, that it runs, and wait for the answer."""
        os.close(self.ready)
        os.close(self.may_continue)
        os.write(self.child_ready, b"1")
        if not os.read(self.child_may_continue, 1):
            os._exit(1)  # the parent has given it up, or ended
        os.close(self.child_ready)
        os.close(self.child_may_continue)

    def completed(self) -> bool:
        """Wait, in the parent, for the child; return whether it runs and has been answered."""
        os.close(self.child_ready)
        os.close(self.child_may_continue)
        try:
            if not wait([self.ready], SECONDS):
                return False
            os.read(self.ready, 1)  # nothing where the child has ended; its exit code tells
            os.write(self.may_continue, b"1")
        except BrokenPipeError:
            pass
        finally:
            os.close(self.ready)
            os.close(self.may_continue)
        return True


class _SureProcess(ForkProcess):
    handshake: _Handshake | None

    @staticmethod
    def _Popen(process_obj: Any) -> Popen:  # noqa: N802 - the name that multiprocessing calls
        return _SurePopen(process_obj)

    def run(self) -> None:
        """Report that the process runs, and run its target, no longer than the parent lives."""
        parent = multiprocessing.parent_process()
        assert parent is not None
        threading.Thread(target=_end_with, args=(parent.pid,), daemon=True).start()
        if self.handshake:
            self.handshake.report()
        super().run()


def _end_with(parent: int | None) -> None:
    """End this process once its parent has ended."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


class _SureForkContext(ForkContext):
    Process = _SureProcess


def fork_context() -> ForkContext:
    """Return a context of `multiprocessing` whose processes are forked and are sure to begin."""
    multiprocessing.get_context("fork")  # raises ValueError where there is no fork
    return cast(ForkContext, _SureForkContext())
