"""Where the ranks meet nobody else can: the port is open under their address alone."""

import os
import socket
from typing import Any

import psutil
import pytest

from tests.commands import free_port
from tests.processes import CONTEXT
from xmodal.distributed.environment import start
from xmodal.distributed.meeting import is_loopback, keep_within, listen
from xmodal.errors import UserError


def meet(rank: int, port: int, results: Any) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    start(30)
    sockets = psutil.Process().net_connections("inet")
    results.put([tuple(one.laddr) for one in sockets if one.status == psutil.CONN_LISTEN])


def test_ranks_of_one_machine_listen_to_none_but_it() -> None:
    port, results = free_port(), CONTEXT.Queue()
    processes = [CONTEXT.Process(target=meet, args=(rank, port, results)) for rank in (0, 1)]
    for process in processes:
        process.start()
    opened = [place for _ in processes for place in results.get(timeout=60)]
    for process in processes:
        process.join(30)
        process.kill()
    assert ("127.0.0.1", port) in opened
    assert {address for address, _ in opened} == {"127.0.0.1"}


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2", "localhost"])
def test_a_port_is_open_under_its_address_alone(address: str) -> None:
    with listen(address, 0) as opened:
        assert is_loopback(opened.getsockname()[0])


def test_a_name_that_only_this_machine_takes_for_itself_is_reached_from_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    local = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.1.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: local)
    with listen("node1", 0) as opened:
        assert opened.getsockname()[0] == "0.0.0.0"


def test_what_keeps_ranks_from_meeting_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(address: str, port: int) -> str:
        with pytest.raises(UserError) as caught:
            listen(address, port)
        return str(caught.value)

    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        said = refused("127.0.0.1", port)
        start_of_it = f"the ranks cannot meet at 127.0.0.1:{port} (MASTER_ADDR, MASTER_PORT): the"
        assert said.startswith(f"{start_of_it} port is in use, by another training? export MASTER")
        monkeypatch.setenv("CROSS_RANK", "0")
        assert refused("127.0.0.1", port).endswith("? deepspeed --master_port=PORT")
    assert "no address of this machine, where rank 0 runs" in refused("192.0.2.1", 29500)
    assert "no machine of this name is known" in refused("no-such-host.invalid", 29500)


def test_ranks_of_one_machine_use_no_network_unless_told() -> None:
    variables = {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "ib0"}
    keep_within(variables)
    assert variables["GLOO_SOCKET_IFNAME"] == "ib0"
    assert variables["NCCL_SOCKET_IFNAME"] == "lo"
    elsewhere = {"MASTER_ADDR": "node1"}
    keep_within(elsewhere)
    assert elsewhere == {"MASTER_ADDR": "node1"}
