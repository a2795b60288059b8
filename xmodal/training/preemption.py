"""Requests to stop before the end: noted, and handled after the current step.

They are signals, and the loss of the launcher: SIGTERM ends `deepspeed` alone, and its ranks would
train on without anyone who waits for them.
"""

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
        self._signalled = False
        self._launcher = launcher_processes()
        self._before: dict[signal.Signals, Any] = {}

    @property
    def asked(self) -> bool:
        """True once a signal has arrived, or a process of the launcher has ended."""
        return self._signalled or launcher_processes() != self._launcher

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
        self._signalled = True
        if number == signal.SIGINT:
            # Not by a handler of Python's, which would wait for what the process is in.
            signal.signal(number, self._last(number))
            if os.environ.get("RANK", "0") == "0":
                os.write(2, HEARD)

    def _last(self, number: int) -> Any:
        # Who was asked to stop is about to: another signal is not to end it in another way.
        return signal.SIG_DFL if number == signal.SIGINT else signal.SIG_IGN


def launcher_processes() -> list[int]:
    """Return the ids of the launcher's processes above this one; without a launcher, none.

    They change when one of them ends, because its children get another parent. `deepspeed` has two:
    the command, and a process on each node.
    """
    if "CROSS_RANK" in os.environ:
        return [os.getppid(), _parent_of(os.getppid())]
    return [os.getppid()] if "TORCHELASTIC_RUN_ID" in os.environ else []


def _parent_of(process: int) -> int:
    import psutil

    try:
        return int(psutil.Process(process).ppid())
    except psutil.Error:
        return 0
