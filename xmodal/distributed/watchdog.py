"""A limit to the time that something takes which waits for other ranks."""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from xmodal.distributed.rollcall import node_name
from xmodal.errors import NOT_FINISHED

# Long enough for all ranks, whose clocks began to run apart, to say what they wait for before a
# launcher ends them because one is gone.
SECONDS_TO_SPEAK = 10


@contextmanager
def within(seconds: float, what: Callable[[], str]) -> Iterator[None]:
    """End this process, whatever it is in, where the block takes longer than so many seconds.

    It says on stderr what was waited for, as `what` tells it then, and where every thread stands,
    and leaves with exit code 75, by which a scheduler starts it again.
    """
    timer = threading.Timer(seconds, give_up, (seconds, what))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def give_up(seconds: float, what: Callable[[], str]) -> None:
    """End this process, which has waited so many seconds for something, as `within` does."""
    try:
        _speak(seconds, what)
    finally:
        os._exit(NOT_FINISHED)


def _speak(seconds: float, what: Callable[[], str]) -> None:
    rank = os.environ.get("RANK", "0")
    print(
        f"error: rank {rank} ({node_name()}) has waited for {what()} longer than {seconds:g} s; "
        "this is where it stands:",
        file=sys.stderr,
        flush=True,
    )
    faulthandler.dump_traceback(sys.stderr)
    time.sleep(SECONDS_TO_SPEAK)
