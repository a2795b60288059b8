"""What a command says when the person at the keyboard can mend it."""

import errno
import os
import sys
import time
from collections.abc import Callable

_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}


class UserError(Exception):
    """Something the user can mend: one line of what is wrong, where, and what to do.

    Commands print the line and leave with exit code 2; every other exception is a bug and
    keeps its traceback.
    """


class UnfinishedError(Exception):
    """Work that has stopped, whole, because it was asked to; the same command goes on with it.

    Commands print the line and leave with exit code 75, by which a scheduler starts them again.
    """


class LostPeerError(Exception):
    """Other processes of the job are gone, or do not answer; the same command goes on from what is
    saved.

    Commands print the line and leave with exit code 75 as well, after whoever caused it.
    """


NOT_FINISHED = 75  # EX_TEMPFAIL of sysexits.h


def run_command(main: Callable[[], int | None]) -> None:
    """Run a command's `main` and leave the process with its exit code.

    A `UserError` becomes the line `error: …` on stderr and exit code 2, and so does a disk that is
    full or may not be written; what is unfinished, or has lost other ranks, exit code 75, Ctrl-C
    130, a closed pipe 141.
    """
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
        # Whoever read the output has seen enough; what is left in the buffer goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        _leave(f"{error.filename or 'a file'} cannot be written: {error.strerror}")


def _leave(message: str) -> None:
    # All ranks of a job meet the same wrong recipe, and one should say so: a launcher ends the
    # whole job when rank 0 is gone, so the others speak only of what they alone have met. Half a
    # minute is more than ranks that start on busy or cold machines lie apart.
    if _rank() > 0:
        time.sleep(30)
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(2)


def _leave_unfinished(message: str) -> None:
    # A launcher kills the other ranks when one has failed, and their ends would hide this code:
    # they are gone, as if all were well, before rank 0 is.
    if _rank() > 0:
        sys.exit(0)
    time.sleep(2)
    print(message, file=sys.stderr, flush=True)
    sys.exit(NOT_FINISHED)


def _leave_lost(message: str) -> None:
    # A launcher tells the code of the rank that fails first: let it be the one that is to blame.
    print(f"error: rank {_rank()}: {message}", file=sys.stderr, flush=True)
    time.sleep(10)
    # What is left of the group could wait for ever for ranks that are gone.
    sys.stdout.flush()
    os._exit(NOT_FINISHED)


def _rank() -> int:
    return int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID", "0"))
