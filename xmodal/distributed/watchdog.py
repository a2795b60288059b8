"""Time limits for operations that wait for other ranks."""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from xmodal.distributed.rendezvous import node_name
from xmodal.errors import NOT_FINISHED

# Ranks time out at slightly different times: each has this long to print its stacks before a
# launcher ends all of them.
SECONDS_TO_SPEAK = 10


@contextmanager
def within(seconds: float, what: Callable[[], str]) -> Iterator[None]:
    """End this process if the block takes longer than `seconds`.

    It prints `what()` and the stack of every thread to stderr, and exits with code 75, for which
    a scheduler starts it again.
    """
    timer = threading.Timer(seconds, give_up, (seconds, what))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def give_up(seconds: float, what: Callable[[], str]) -> None:
    """Print the stacks and end this process after a timeout: see `within`."""
    try:
        _speak(seconds, what)
    finally:
        os._exit(NOT_FINISHED)


def _speak(seconds: float, what: Callable[[], str]) -> None:
    rank = os.environ.get("RANK", "0")
    line = (
        f"error: rank {rank} ({node_name()}) has waited longer than {seconds:g} s for {what()}; "
        "its stacks:\n"
    )
    # Written at once: ranks share stderr, and give up at about the same time. In memory, since it
    # may be a disk that hangs.
    with os.fdopen(os.memfd_create("stacks"), "r+b") as memory:
        memory.write(line.encode())
        memory.flush()
        faulthandler.dump_traceback(memory)
        memory.seek(0)
        os.write(sys.stderr.fileno(), memory.read())
    time.sleep(SECONDS_TO_SPEAK)
