"""Signals to stop before the end: noted, and handled after the current step."""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

from xmodal.errors import check_interrupted

# Schedulers send the first before they take a job's machines away, the second where a job has asked
# for a warning before its time is over (sbatch --signal=USR1@SECONDS), a keyboard the third.
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
HEARD = b"\nInterrupted: saving after this step; Ctrl-C again ends at once, without saving\n"


class Preemption:
    """Notes, within its context, whether this process has been asked to stop.

    A second signal changes nothing: a file that is being written is completed or absent. A second
    Ctrl-C ends the process at once. Outside of the main thread, where no signal arrives, nothing
    is noted.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        check_interrupted()
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, self._last(number) if self.asked else handler)

    def _note(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self.asked = True
        if number == signal.SIGINT:
            # Not by a handler of Python's, which would wait for what the process is in.
            signal.signal(number, self._last(number))
            if os.environ.get("RANK", "0") == "0":
                os.write(2, HEARD)

    def _last(self, number: int) -> Any:
        # Who was asked to stop is about to: another signal is not to end it in another way.
        return signal.SIG_DFL if number == signal.SIGINT else signal.SIG_IGN
