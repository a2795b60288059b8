"""Errors of collectives after another rank is lost."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch.distributed import DistError

from xmodal.errors import LostPeerError


@contextmanager
def losing_peers() -> Iterator[None]:
    """Convert the error of a collective that lost a peer into `LostPeerError`."""
    try:
        yield
    except RuntimeError as error:
        # gloo raises plain RuntimeErrors; NCCL and the store have classes of their own.
        if not isinstance(error, DistError) and "gloo/transport" not in str(error):
            raise
        reason = str(error).splitlines()[0].rpartition("] ")[2].partition(". ")[0]
        raise LostPeerError(
            f"the connection to another rank is lost ({reason}); rerun the same command to resume "
            "from the last checkpoint"
        ) from error
