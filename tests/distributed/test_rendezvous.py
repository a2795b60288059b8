"""Before work begins every rank has answered, or those that have not are named."""

import os
import socket
import time
from typing import Any

import psutil
import pytest

from tests.commands import free_port
from tests.processes import CONTEXT, on_ranks
from tests.services.daemons import until
from xmodal.distributed.collectives import barrier, rank
from xmodal.distributed.rendezvous import ANSWERED, check_devices, join_rendezvous, named
from xmodal.errors import LostPeerError, UserError


def answer(port: int, ranks: int, nodes: str) -> str:
    """Join a rendezvous of so many ranks; return the error, if any."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), XMODAL_NODES=nodes)
    try:
        rendezvous = join_rendezvous(rank(), ranks, 2 if ranks > 2 else 20)
    except LostPeerError as error:
        return str(error)
    barrier()
    del rendezvous  # they had met at rank 0's
    return ""


def test_all_answer() -> None:
    assert on_ranks(2, answer, free_port(), 2, "") == ["", ""]


def use_device(port: int, devices: list[str]) -> str:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    rendezvous = join_rendezvous(rank(), 2, 20)
    try:
        check_devices(rendezvous, devices[rank()], 20)
    except UserError as error:
        return str(error)
    finally:
        barrier()
    return ""


def test_a_device_is_one_ranks() -> None:
    assert on_ranks(2, use_device, free_port(), ["H200 a", "H200 b"]) == ["", ""]
    for said in on_ranks(2, use_device, free_port(), ["H200 a", "H200 a"]):
        assert said.startswith("rank 0 and rank 1 share one GPU (H200 a): start as")


def test_those_that_do_not_are_named_with_their_node() -> None:
    said = on_ranks(2, answer, free_port(), 4, "n1 n2 ")
    # The first to say so may be gone before the other has asked who it was.
    assert "rank 2 (node n2), rank 3 (node n2) did not answer within 2 s" in " ".join(said)
    assert all("did not answer within 2 s" in one for one in said)


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    return monkeypatch


def test_rank_0_is_named_by_the_others(address: Any) -> None:
    with pytest.raises(LostPeerError, match=r"^rank 0 did not answer at 127.0.0.1:\d+ \(MASTER_"):
        join_rendezvous(1, 2, 1)


def test_a_port_that_cannot_be_had_is_the_users_to_mend(address: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        address.setenv("MASTER_PORT", str(port))
        with pytest.raises(UserError, match=rf"the ranks cannot meet at 127\.0\.0\.1:{port} "):
            join_rendezvous(0, 2, 1)


def meet_and_stay(port: int) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    rendezvous = join_rendezvous(0, 2, 20)
    time.sleep(60)
    del rendezvous


def test_where_rank_0_has_stopped_it_is_named(address: Any) -> None:
    other = CONTEXT.Process(target=meet_and_stay, args=(int(os.environ["MASTER_PORT"]),))
    other.start()
    try:
        rendezvous = join_rendezvous(1, 2, 20)
        assert rendezvous.absent(ANSWERED) == []
        assert rendezvous.absent("elsewhere") == ["rank 0", "rank 1"]
        process = psutil.Process(other.pid)
        process.suspend()
        until(lambda: process.status() == psutil.STATUS_STOPPED, 20, "its stop")
        assert rendezvous.absent(ANSWERED) == ["rank 0"]
    finally:
        other.kill()
        other.join()


def test_ranks_stand_on_nodes_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XMODAL_NODES", "a b c")
    assert [named(one, 6) for one in (0, 1, 2, 5)] == [
        "rank 0 (node a)",
        "rank 1 (node a)",
        "rank 2 (node b)",
        "rank 5 (node c)",
    ]
    monkeypatch.delenv("XMODAL_NODES")
    assert named(3, 6) == "rank 3"
