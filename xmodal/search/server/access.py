"""Access to the server: the host names that requests may use, and the token."""

import hmac
import ipaddress
import secrets
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Access:
    """Condition of every request: a known host name and, except on the loopback, the token."""

    host: str  # that the user named
    port: int
    token: str | None  # None: none is asked for

    @classmethod
    def of(cls, host: str, address: str, port: int) -> "Access":
        """Return the access of a server that listens at an address, with a new token if needed."""
        is_own = ipaddress.ip_address(address).is_loopback
        return cls(host, port, None if is_own else secrets.token_urlsafe(24))

    @property
    def url(self) -> str:
        """Address of the page, with its token."""
        name = socket.gethostname() if self.host in ("0.0.0.0", "::") else self.host
        name = f"[{name}]" if ":" in name else name
        return f"http://{name}:{self.port}/" + (f"?token={self.token}" if self.token else "")

    @property
    def cookie(self) -> str:
        """Value of Set-Cookie that stands for the token from then on."""
        return f"{self._cookie_name}={self.token}; Path=/; HttpOnly; SameSite=Strict"

    def is_known_host(self, header: str) -> bool:
        """Return whether a Host header names this machine.

        A stranger's page can point its own name at this machine (DNS rebinding), and then sends
        that name. An address in its place cannot have been pointed elsewhere.
        """
        try:
            name = urlsplit(f"//{header}").hostname or ""
        except ValueError:
            return False
        return name in ("localhost", self.host.lower(), socket.gethostname().lower()) or (
            _is_address(name)
        )

    def is_allowed(self, cookies: str, given: str | None) -> bool:
        """Return whether a request has the token, as a parameter or in its cookies."""
        if self.token is None:
            return True
        pairs = (one.strip().partition("=") for one in cookies.split(";"))
        found = [value for name, _, value in pairs if name == self._cookie_name]
        return any(_equal(one, self.token) for one in [*found, given or ""])

    @property
    def _cookie_name(self) -> str:
        return f"xmodal-{self.port}"  # a browser sends cookies to all ports of a machine


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _equal(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), token.encode())
