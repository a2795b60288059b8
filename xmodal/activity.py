"""Current activity of a command, printed after ten seconds without other output.

    with reporting(print), activity("evaluating"):
        with activity("embedding images", total=5000) as images:
            images.advance(64)

prints `evaluating: embedding images 1,280 of 5,000 (20 s)` where that takes longer. Activities
nest, and cost nothing without `reporting`. Call `printed()` after printing any other line.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import TypeVar

SECONDS_OF_SILENCE = 10
T = TypeVar("T")


class Activity:
    """One activity; `what` may be a function that describes its current state."""

    def __init__(self, what: str | Callable[[], str], total: int | None, begun: float) -> None:
        self.what, self.total, self.begun = what, total, begun
        self.done = 0

    def advance(self, number: int = 1) -> None:
        """Count so many more as done."""
        self.done += number

    def __str__(self) -> str:
        what = self.what if isinstance(self.what, str) else self.what()
        return what if self.total is None else f"{what} {self.done:,} of {self.total:,}"


class Heartbeat:
    """The activities of a process, and the time of its last line."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.activities: list[Activity] = []
        self.show: Callable[[str], None] | None = None
        self.printed()

    def printed(self) -> None:
        """Record that a line was printed: restart the ten seconds."""
        self.last = self.clock()

    @contextmanager
    def activity(
        self, what: str | Callable[[], str], total: int | None = None
    ) -> Iterator[Activity]:
        """Name the activity of the block."""
        one = Activity(what, total, self.clock())
        self.activities.append(one)
        try:
            yield one
        finally:
            self.activities.remove(one)

    @contextmanager
    def reporting(self, show: Callable[[str], None]) -> Iterator[None]:
        """Call `show` with a line about the present activity after every ten silent seconds.

        `show` runs in a thread. Within another such block, this one's `show` takes its place.
        """
        outer, self.show = self.show, show
        self.printed()
        over = threading.Event()
        if outer is None:
            threading.Thread(target=self._beat, args=(over,), daemon=True, name="heartbeat").start()
        try:
            yield
        finally:
            over.set()
            self.show = outer

    def beat(self) -> None:
        """Show the present activity if the silence has lasted long enough."""
        now, show, activities = self.clock(), self.show, [*self.activities]
        if show and activities and now - self.last >= SECONDS_OF_SILENCE:
            self.printed()
            show(f"{': '.join(map(str, activities))} ({now - activities[-1].begun:.0f} s)")

    def _beat(self, over: threading.Event) -> None:
        while not over.wait(1):
            with suppress(OSError):  # a full disk, a closed pipe: the command meets it as well
                self.beat()


_HEARTBEAT = Heartbeat()


def activity(
    what: str | Callable[[], str], total: int | None = None
) -> AbstractContextManager[Activity]:
    """Name the activity of the block, counted if `total` is given: see `Heartbeat`."""
    return _HEARTBEAT.activity(what, total)


def tracked(items: Sequence[T], what: str) -> Iterator[T]:
    """Yield items, each counted as done when the next one is asked for: see `Heartbeat`."""
    with activity(what, len(items)) as done:
        for item in items:
            yield item
            done.advance()


def reporting(show: Callable[[str], None]) -> AbstractContextManager[None]:
    """Show the block's activities after every ten silent seconds: see `Heartbeat`."""
    return _HEARTBEAT.reporting(show)


def printed() -> None:
    """Record that a line was printed: see `Heartbeat`."""
    _HEARTBEAT.printed()
