"""Memory that tensors on a CPU have freed: kept for the next step, given back before a fork.

glibc gives large blocks back to the system as they are freed. A training step frees all its
activations and takes as much again; the system clears every page of it each time, which can take
longer than computing does. So the process keeps it, unless the environment sets glibc's own
variables for it.
"""

import ctypes
import os
from contextlib import suppress

# mallopt's parameters (malloc.h), and the variables by which a user sets them.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_VARIABLES = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")
_LARGE = 2**30  # bytes; from there on a block has pages of its own, which are given back


def keep_freed_memory() -> None:
    """Make the C library keep what this process frees, blocks of a GiB and more excepted.

    The variables `MALLOC_TRIM_THRESHOLD_`, `MALLOC_MMAP_THRESHOLD_` and `GLIBC_TUNABLES` prevail.
    """
    if any(name in os.environ for name in _VARIABLES):
        return
    if "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    with suppress(AttributeError, OSError):  # of other C libraries than glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, _LARGE)
        mallopt(_TRIM_THRESHOLD, -1)


def give_back_freed_memory() -> None:
    """Return to the system what this process has freed and kept."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
