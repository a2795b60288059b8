"""Signs of life that ranks give each other, whatever they are doing: no rank waits for one that is
gone.

A collective whose peer is killed ends by its broken connection, but what waits at the rendezvous
store (a new process group) waits for half an hour. A rank's thread counts at the store, and watches
the next rank's count: work may take as long as it takes, as long as all ranks live.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from torch.distributed import DistError

from xmodal.distributed.rollcall import PULSE, Roll, named
from xmodal.distributed.watchdog import give_up, within
from xmodal.errors import UnfinishedError

LONGEST_PAUSE = 5.0
SECONDS_TO_FOLLOW = 30.0
BEATS = 10  # without another rank's, after which that one is gone
OVER = "over"


@contextmanager
def watching_peers(roll: Roll | None, seconds: float) -> Iterator[None]:
    """End this process, with exit code 75, where another rank has given no sign of life for about
    so many seconds within the block.

    A rank that leaves the block by an error is gone for the others. Without a roll there is nobody
    to watch.
    """
    if roll is None or roll.ranks == 1:
        yield
        return
    over = threading.Event()
    thread = threading.Thread(target=_beat, args=(roll, seconds, over), daemon=True, name="pulse")
    thread.start()
    try:
        yield
    except UnfinishedError:  # which all ranks leave by
        _end(roll, over)
        raise
    # Not where an error leaves the block: others would wait for this rank without an end.
    _end(roll, over)


def _end(roll: Roll, over: threading.Event) -> None:
    over.set()
    with suppress(DistError):
        roll.note(PULSE, OVER)
        roll.note(OVER)
        if roll.rank == 0:  # where all meet: it leaves last
            roll.wait(OVER, SECONDS_TO_FOLLOW)


def _beat(roll: Roll, seconds: float, over: threading.Event) -> None:
    """Count, and watch the next rank's count; beats are counted, not time, in which this process
    may have been stopped too.
    """
    pause = min(LONGEST_PAUSE, seconds / BEATS)
    watched = (roll.rank + 1) % roll.ranks
    number, silent, last = 0, 0, ""
    while silent * pause < seconds:
        if over.wait(pause):
            return
        number += 1
        seen = None  # where the store is gone with rank 0
        with within(seconds + pause, lambda: _sign_of(roll, 0)), suppress(DistError):
            roll.note(PULSE, str(number))
            seen = roll.value(PULSE, watched)
        if seen == OVER:
            return
        silent, last = (silent + 1, last) if seen in (None, last) else (0, seen)
    give_up(seconds, lambda: _sign_of(roll, 0 if seen is None else watched))


def _sign_of(roll: Roll, rank: int) -> str:
    return f"a sign of life of {named(rank, roll.ranks)}"
