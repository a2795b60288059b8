"""Errors that users can fix, exit codes, and output that is safe for a terminal."""

import atexit
import errno
import os
import re
import signal
import sys
import threading
import time
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import IO, Any, TextIO

from xmodal.torch_environment import set_torch_environment

# ELOOP: a link in the place of a file that only ever is one.
_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ELOOP}


class UserError(Exception):
    """Error that the user can fix: one line that says what is wrong, where, and what to do.

    Commands print the line and exit with code 2; any other exception is a bug and keeps its
    traceback.
    """


class UnfinishedError(Exception):
    """Interrupted work, saved; the same command resumes it.

    Commands print the line and exit with code 75, for which a scheduler starts them again.
    """


class LostPeerError(Exception):
    """Loss of other processes of the job; the same command resumes from the last checkpoint.

    Commands print the line and exit with code 75 as well, after the rank that caused the loss.
    """


NOT_FINISHED = 75  # EX_TEMPFAIL of sysexits.h
SECONDS_TO_BLAME = 10  # head start of the rank that failed over those that have lost it


# Control characters, those that reverse the direction of text or cannot be seen, half a pair of
# UTF-16, and what some programs take for the end of a line; of them, scripts and emoji are joined.
_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"
# A line that begins as ours do, within a text that was written as one.
_FORGED = re.compile(r"\n(?=\s*(error|warning):)")


_interrupted = threading.Event()  # by Ctrl-C


def printable(text: str) -> str:
    r"""Return a text as one line without control characters: `\x1b` for ESC.

    Use it for untrusted text in messages: file and member names, captions, answers of servers.
    """
    if text.isprintable():
        return text
    return "".join(_escaped(c) if unicodedata.category(c) in _UNSEEN else c for c in text)


def _escaped(character: str) -> str:
    if character in _JOINERS:
        return character
    return character.encode("unicode_escape", "surrogatepass").decode()


class RenamedKeyWarning(FutureWarning):
    """A key of a configuration has a new name; the old one is accepted for one release.

    `old` is the key, without its path, that is given.
    """

    def __init__(self, message: str, old: str) -> None:
        super().__init__(message)
        self.old = old


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if issubclass(category, RenamedKeyWarning):
        if own_rank() == 0:
            print(f"warning: {message}", file=sys.stderr)
    else:
        _plain_warning(message, category, filename, lineno, file, line)


_plain_warning = warnings.showwarning


class Guarded:
    """Text stream that writes `printable` lines only.

    `unguarded` is the stream itself, for `xmodal.terminal`, which moves the cursor.
    """

    def __init__(self, stream: IO[str]) -> None:
        self.unguarded = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.unguarded, name)

    def write(self, text: str) -> int:
        """Write a text escaped, except for tabs and for newlines that forge no line."""
        # A bar of tqdm's begins its line anew.
        begin = "\r" * (text.startswith("\r") and self.unguarded.isatty())
        pieces = re.split(r"([\n\t])", _FORGED.sub(r"\\n", text.removeprefix(begin)))
        shown = (piece if piece in ("\n", "\t") else printable(piece) for piece in pieces)
        self.unguarded.write(begin + "".join(shown))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)


def _guard_streams() -> None:
    """Make all output of this process `printable`, tracebacks included."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, Guarded):
            if hasattr(stream, "reconfigure"):  # what an encoding has not is escaped too
                stream.reconfigure(errors="backslashreplace")
            setattr(sys, name, Guarded(stream))


def run_command(main: Callable[[], int | None]) -> None:
    """Run a command's `main` and exit with its code.

    A `UserError` becomes the line `error: …` on stderr and exit code 2, as does a full or read-only
    disk. `UnfinishedError` and `LostPeerError` exit with code 75, Ctrl-C with 130, a closed pipe
    with 141. All output is `printable`.
    """
    set_torch_environment()
    code = [1]  # of a bug, whose traceback Python prints
    atexit.register(_end, code)  # registered first, it runs last
    try:
        _run(main)
    except SystemExit as end:
        code[0] = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise


def _end(code: Sequence[int]) -> None:
    """End a rank at once: gloo's threads may still free tensors, which aborts Python's own end."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_initialized():
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code[0])


def _run(main: Callable[[], int | None]) -> None:
    _guard_streams()
    warnings.showwarning = _show_warning
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        sys.exit(main() or 0)
    except UserError as error:
        _leave(str(error))
    except UnfinishedError as error:
        _leave_unfinished(str(error))
    except LostPeerError as error:
        _leave_lost(str(error))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of the pipe has closed it: discard the rest of the buffer.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        _leave(f"{error.filename or 'a file'} cannot be written: {error.strerror}")


def _interrupt(number: int, frame: FrameType | None) -> None:
    _interrupted.set()
    signal.default_int_handler(number, frame)


def check_interrupted() -> None:
    """Raise `KeyboardInterrupt` again if a library swallowed it during its import."""
    if _interrupted.is_set():
        raise KeyboardInterrupt


def _leave(message: str) -> None:
    # All ranks of a job meet the same wrong recipe, and one should say so: a launcher ends the
    # whole job when rank 0 is gone, so the others speak only of what they alone have met. Half a
    # minute is more than ranks that start on busy or cold machines lie apart.
    if own_rank() > 0:
        time.sleep(30)
    print(f"error: {printable(message)}", file=sys.stderr, flush=True)
    sys.exit(2)


def _leave_unfinished(message: str) -> None:
    # A launcher kills the other ranks when one has failed, and their ends would hide this code:
    # they are gone, as if all were well, before rank 0 is.
    if own_rank() > 0:
        sys.exit(0)
    time.sleep(2)
    print(printable(message), file=sys.stderr, flush=True)
    sys.exit(NOT_FINISHED)


def _leave_lost(message: str) -> None:
    # A launcher reports the code of the rank that exits first: let the one that failed be first.
    print(f"error: rank {own_rank()}: {printable(message)}", file=sys.stderr, flush=True)
    time.sleep(SECONDS_TO_BLAME)
    # The cleanup of the process group could wait forever for lost ranks.
    sys.stdout.flush()
    os._exit(NOT_FINISHED)


def own_rank() -> int:
    """Return the rank set by a launcher, before the rendezvous; 0 without a launcher."""
    # A launcher's own names count until `xmodal.distributed` has given them its own.
    names = ("RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID", "PMI_RANK")
    given = (os.environ.get(name, "") for name in names)
    return next((int(rank) for rank in given if rank.isdecimal()), 0)
