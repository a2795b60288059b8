"""A rank that is gone is no bug of those that wait for it."""

import pytest
import torch
import torch.distributed as dist

from tests.processes import on_ranks
from xmodal.distributed.collectives import rank
from xmodal.distributed.peers import losing_peers
from xmodal.errors import LostPeerError


def lose() -> str:
    """Have rank 1 leave a group in which rank 0 waits for it; return what that says."""
    group = dist.new_group()
    dist.all_reduce(torch.ones(1), group=group)
    if rank() == 1:
        dist.destroy_process_group(group)
        return ""
    try:
        with losing_peers():
            for _ in range(100):
                dist.all_reduce(torch.ones(1), group=group)
    except LostPeerError as error:
        return str(error)
    return "nothing was lost"


def test_a_connection_that_closes_is_a_lost_peer() -> None:
    said, _ = on_ranks(2, lose)
    assert said.startswith("the connection to another rank is lost (")
    assert "Connection" in said
    assert "\n" not in said


def test_other_errors_are_bugs() -> None:
    with pytest.raises(RuntimeError, match="size mismatch"), losing_peers():
        raise RuntimeError("size mismatch")
