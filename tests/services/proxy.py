"""A TCP proxy that does to connections what networks do: cuts them, stalls them, is not there."""

import random
import socket
import struct
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

_CHUNK = 16_384


@dataclass(frozen=True)
class Fault:
    """What befalls a connection after the server sent so many bytes: it is cut, or it stalls."""

    after: int
    stalls: bool = False


def cuts(seed: int, within: int) -> Iterator[Fault]:
    """Cut every connection after at most `within` bytes, drawn at random."""
    draw = random.Random(seed)
    while True:
        yield Fault(draw.randrange(within))


@dataclass
class Proxy:
    """Passes connections to its own port on to that of the server."""

    server_port: int
    port: int = 0
    num_cut: int = 0
    num_stalled: int = 0
    _sockets: list[socket.socket] = field(default_factory=list)
    _faults: Iterator[Fault] = field(default_factory=lambda: iter(()))  # one a connection to come

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def open(self) -> None:
        """Listen, on the same port as before."""
        listener = socket.create_server(("127.0.0.1", self.port), backlog=256)
        self.port = listener.getsockname()[1]
        self._sockets.append(listener)
        self._start(self._accept, listener)

    def close(self) -> None:
        """Cut all connections, and refuse others."""
        while self._sockets:
            _cut(self._sockets.pop())

    def befall(self, faults: Iterable[Fault]) -> None:
        """Cut all connections, and give those to come a fault each, as long as there are some."""
        self.close()
        self._faults = iter(faults)
        self.open()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                self._sockets.append(client)
                try:
                    server = socket.create_connection(("127.0.0.1", self.server_port))
                except OSError:
                    _cut(client)
                    continue
                self._sockets.append(server)
                self._start(self._pass_on, client, server, None)
                self._start(self._pass_on, server, client, next(self._faults, None))

    def _pass_on(self, sender: socket.socket, receiver: socket.socket, fault: Fault | None) -> None:
        left = fault.after if fault else float("inf")
        with suppress(OSError):
            while left and (data := sender.recv(int(min(_CHUNK, left)))):
                receiver.sendall(data)
                left -= len(data)
            if left or not fault:
                receiver.shutdown(socket.SHUT_WR)
            elif fault.stalls:
                self.num_stalled += 1
            else:
                self.num_cut += 1
                _cut(sender)
                _cut(receiver)

    def _start(self, function: object, *arguments: object) -> None:
        threading.Thread(target=function, args=arguments, daemon=True).start()  # type: ignore[arg-type]


@contextmanager
def proxy(server_port: int) -> Iterator[Proxy]:
    """Open a proxy to a port of this machine that does no harm until it is given faults."""
    opened = Proxy(server_port)
    opened.open()
    try:
        yield opened
    finally:
        opened.close()


def _cut(connection: socket.socket) -> None:
    with suppress(OSError):  # a reset, as from a machine that is gone, where it is a connection
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)  # wakes the threads that wait for it
    connection.close()
