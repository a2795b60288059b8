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


def run_command(main: Callable[[], int | None]) -> None:
    """Run a command's `main` and leave the process with its exit code.

    A `UserError` becomes the line `error: …` on stderr and exit code 2, and so does a disk that is
    full or may not be written; Ctrl-C exit code 130, a closed pipe 141.
    """
    try:
        sys.exit(main() or 0)
    except UserError as error:
        _leave(str(error))
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
    rank = os.environ.get("RANK") or os.environ.get("SLURM_PROCID", "0")
    if int(rank) > 0:
        time.sleep(30)
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(2)
