"""Rendezvous port of a job, open under one address only."""

import errno
import ipaddress
import socket
from collections.abc import MutableMapping

from xmodal.distributed.launcher import another_port
from xmodal.errors import UserError

# By which gloo and NCCL choose the network between the ranks.
INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


def listen(address: str, port: int) -> socket.socket:
    """Return a socket that listens at one address of this machine only.

    If the name resolves to loopback on this machine alone (`127.0.1.1 node1` in its /etc/hosts),
    the other nodes use an address that is unknown here: listen under all. Raises `UserError`.
    """
    at = f"{address}:{port} (MASTER_ADDR, MASTER_PORT)"
    try:
        family, _, _, _, place = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)[0]
        if is_loopback(str(place[0])) and not is_loopback(address):
            place = ("", port)
        return socket.create_server(place[:2], family=family, backlog=2048)
    except socket.gaierror as error:
        raise UserError(
            f"the ranks cannot meet at {at}: no machine of this name is known ({error.strerror})"
        ) from None
    except OSError as error:
        reason = {
            errno.EADDRINUSE: f"the port is in use, by another training? {another_port()}",
            errno.EADDRNOTAVAIL: "it is no address of this machine, where rank 0 runs",
        }.get(error.errno or 0, str(error.strerror))
        raise UserError(f"the ranks cannot meet at {at}: {reason}") from None


def is_loopback(address: str) -> bool:
    """Return True for a loopback address."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def keep_within(variables: MutableMapping[str, str]) -> None:
    """Restrict gloo and NCCL to the loopback network if the rendezvous address is loopback."""
    if is_loopback(variables["MASTER_ADDR"]) and "lo" in dict(socket.if_nameindex()).values():
        for name in INTERFACES:
            variables.setdefault(name, "lo")
