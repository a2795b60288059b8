"""Heartbeats between ranks, so that no rank waits for one that is lost.

A collective whose peer is killed ends by its broken connection, but a wait at the rendezvous store
(for a new process group) lasts half an hour. A thread of each rank increments a counter at the
store and watches the counter of the next rank: steps may take any time while all ranks are alive.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from torch.distributed import DistError

from xmodal.distributed.rendezvous import PULSE, Rendezvous, named
from xmodal.distributed.watchdog import give_up, within
from xmodal.errors import UnfinishedError

LONGEST_PAUSE = 5.0
SECONDS_TO_FOLLOW = 30.0
BEATS = 10  # that another rank may miss before it counts as lost
OVER = "over"


@contextmanager
def watching_peers(rendezvous: Rendezvous | None, seconds: float) -> Iterator[None]:
    """End this process with exit code 75 if another rank sends no heartbeat for about `seconds`.

    A rank that leaves the block by an error counts as lost. Without a rendezvous, do nothing.
    """
    if rendezvous is None or rendezvous.ranks == 1:
        yield
        return
    over = threading.Event()
    thread = threading.Thread(
        target=_beat, args=(rendezvous, seconds, over), daemon=True, name="pulse"
    )
    thread.start()
    try:
        yield
    except UnfinishedError:  # raised on all ranks
        _end(rendezvous, over)
        raise
    # Not after an error: the other ranks would wait for this one forever.
    _end(rendezvous, over)


def _end(rendezvous: Rendezvous, over: threading.Event) -> None:
    over.set()
    with suppress(DistError):
        rendezvous.note(PULSE, OVER)
        rendezvous.note(OVER)
        if rendezvous.rank == 0:  # where all meet: it leaves last
            rendezvous.wait(OVER, SECONDS_TO_FOLLOW)


def _beat(rendezvous: Rendezvous, seconds: float, over: threading.Event) -> None:
    """Increment the own counter and watch the next rank's.

    Count beats, not time: this process may have been suspended too.
    """
    pause = min(LONGEST_PAUSE, seconds / BEATS)
    watched = (rendezvous.rank + 1) % rendezvous.ranks
    number, silent, last = 0, 0, ""
    while silent * pause < seconds:
        if over.wait(pause):
            return
        number += 1
        seen = None  # where the store is gone with rank 0
        with within(seconds + pause, lambda: _heartbeat_of(rendezvous, 0)), suppress(DistError):
            rendezvous.note(PULSE, str(number))
            seen = rendezvous.value(PULSE, watched)
        if seen == OVER:
            return
        silent, last = (silent + 1, last) if seen in (None, last) else (0, seen)
    give_up(seconds, lambda: _heartbeat_of(rendezvous, 0 if seen is None else watched))


def _heartbeat_of(rendezvous: Rendezvous, rank: int) -> str:
    return f"a heartbeat of {named(rank, rendezvous.ranks)}"
