"""What it means when another rank is gone."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch.distributed import DistError

from xmodal.errors import LostPeerError


@contextmanager
def losing_peers() -> Iterator[None]:
    """Turn the error of a collective whose other ranks are gone into `LostPeerError`."""
    try:
        yield
    except RuntimeError as error:
        # gloo's errors have no class of their own; NCCL's and the store's have.
        if not isinstance(error, DistError) and "gloo/transport" not in str(error):
            raise
        reason = str(error).splitlines()[0].rpartition("] ")[2].partition(". ")[0]
        raise LostPeerError(
            f"the connection to another rank is lost ({reason}); the same command goes on from the "
            "last checkpoint"
        ) from error
