"""Server of the page: HTTP, its limits, and who may ask.

It is Python's own `http.server`: no dependency more for a page that a few people look at. What that
does not bound is bounded here: requests, uploads, connections, and time.
"""

import errno
import re
import socket
import socketserver
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import BoundedSemaphore
from typing import Any

from xmodal.activity import activity, printed
from xmodal.errors import UserError
from xmodal.search.searcher import Searcher
from xmodal.search.server.access import Access
from xmodal.search.server.answers import Answer, Refused, failure
from xmodal.search.server.api import MAX_UPLOAD_BYTES, Api
from xmodal.search.server.site import Request, Site, read_target

MAX_CONNECTIONS = 64
SECONDS = 30  # that a connection may be silent
DISCARDED = 4 * MAX_UPLOAD_BYTES  # bytes that are read of a body that is refused
CHUNK = 2**16
LENGTH = re.compile(r"[0-9]{1,18}")


def serve(searcher: Searcher, host: str, port: int, say: Callable[[str], None]) -> None:
    """Serve the page of an index until Ctrl-C; `say` is called with its address.

    The address is taken before the model is loaded. Raises `UserError` where it cannot be.
    """
    with SearchServer(searcher, host, port) as server:
        with activity(f"loading {searcher.info.model.source}"):
            _ = searcher.model
        say(f"{server.access.url} searches {searcher.index.path}; Ctrl-C ends it")
        if server.access.token:
            say("whoever has this address can search; it is not encrypted on its way")
        printed()
        with suppress(KeyboardInterrupt):
            server.serve_forever()


class SearchServer(ThreadingHTTPServer):
    """Listens at an address; raises `UserError` where that cannot be."""

    daemon_threads, request_queue_size = True, MAX_CONNECTIONS

    def __init__(self, searcher: Searcher, host: str, port: int) -> None:
        self._free = BoundedSemaphore(MAX_CONNECTIONS)
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            self.address_family = found[0]
            super().__init__(found[4][:2], Handler)  # type: ignore[arg-type]
        except OSError as error:
            raise UserError(_why_not(host, port, error)) from None
        self.access = Access.of(host, self.server_name, self.server_port)
        self.site = Site(Api(searcher), self.access)

    def server_bind(self) -> None:
        """Bind, without asking a name server for this machine's name, as the base does."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread; with too many connections, close this one."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer the requests of a connection."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print the traceback of a bug; a browser that leaves is none."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """Requests of one connection."""

    server: SearchServer
    protocol_version = "HTTP/1.1"
    timeout = SECONDS
    _unread = 0  # bytes of the body that are still to come

    def do_GET(self) -> None:
        """Answer a GET."""
        self._answer(is_post=False)

    def do_HEAD(self) -> None:
        """Answer as a GET, without the body."""
        self._answer(is_post=False)

    def do_POST(self) -> None:
        """Answer a POST."""
        self._answer(is_post=True)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what is no request as any other mistake."""
        self.close_connection = True
        self._send(failure(code, message or explain or self.responses[code][0]))

    def version_string(self) -> str:
        """Name the server, without versions."""
        return "xmodal"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Log nothing: addresses have tokens and queries."""

    def _answer(self, is_post: bool) -> None:
        try:
            answer = self._find_answer(is_post)
        except Refused as refused:
            answer = refused.answer
        except UserError as error:
            answer = failure(400, str(error))
        except (ConnectionError, TimeoutError):
            raise
        except Exception:
            traceback.print_exc()
            answer = failure(500, "the server failed; its terminal shows why")
        self._send(answer)

    def _find_answer(self, is_post: bool) -> Answer:
        self._unread = self._length()
        path, parameters = read_target(self.path)
        self._check_origin(path)
        access = self.server.access
        if not access.is_allowed(self.headers.get("Cookie", ""), parameters.get("token")):
            what = "wrong" if "token" in parameters else "missing"
            raise Refused(401, f"the token is {what}: open the address that the server printed")
        if path != "/":
            parameters.pop("token", None)
        return self.server.site.answer(
            Request(path, parameters, self._read_body() if is_post else None)
        )

    def _length(self) -> int:
        """Return the number of bytes of the body."""
        given = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not LENGTH.fullmatch(given):
            self.close_connection = True
            raise Refused(411, "the length of the body is missing")
        return int(given)

    def _check_origin(self, path: str) -> None:
        """Refuse requests that pages of others make."""
        if not self.server.access.is_known_host(self.headers.get("Host", "")):
            raise Refused(421, "the server is not known by this name; use its address")
        if self.headers.get("Sec-Fetch-Site") in ("cross-site", "same-site") and path != "/":
            raise Refused(403, "pages of other sites cannot use this server")

    def _read_body(self) -> bytes:
        if self._unread > MAX_UPLOAD_BYTES:
            raise Refused(413, f"an image has at most {MAX_UPLOAD_BYTES // 2**20} MiB")
        length, self._unread = self._unread, 0
        body = self.rfile.read(length)
        if len(body) < length:
            raise ConnectionError("the body ended early")
        return body

    def _send(self, answer: Answer) -> None:
        self.close_connection |= self._unread > 0
        self.send_response(answer.status)
        for name, value in answer.all_headers().items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)
        self._discard()

    def _discard(self) -> None:
        """Read what is left of a refused body: a browser reads the answer once it is sent."""
        left, self._unread = min(self._unread, DISCARDED), 0
        while left > 0 and (read := self.rfile.read(min(left, CHUNK))):
            left -= len(read)


def _why_not(host: str, port: int, error: OSError) -> str:
    match error:
        case OSError(errno=errno.EADDRINUSE):
            return f"port {port} is in use; name another one with --port"
        case OSError(errno=errno.EACCES):
            return f"port {port} needs the rights of root; name one of 1024 and above with --port"
    return f"--host {host} is no address of this machine ({error.strerror or error})"
