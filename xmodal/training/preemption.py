"""Being asked to stop before the end: a signal is noted, and heeded when a step is done."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

# Schedulers send the one before they take a job's machines away, the other where a job has asked
# to be told that its time is nearly over (sbatch --signal=USR1@SECONDS).
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class Preemption:
    """Tells, within its context, whether this process has been asked to stop.

    A second signal changes nothing: what is being written then is whole or not there. Outside of
    the main thread, where no signal arrives, it is never asked.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Who was asked to stop is about to: another signal is not to end it in another way.
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_IGN if self.asked else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.asked = True
