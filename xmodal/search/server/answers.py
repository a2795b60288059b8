"""Answers of the server: status, body, and headers that keep a browser from doing more."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Nothing but the page's own files, pictures, and uploads that it shows.
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
FILE_POLICY = "default-src 'none'; frame-ancestors 'none'; sandbox"
ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


@dataclass(frozen=True)
class Answer:
    """Answer to a request; `headers` are those of its own."""

    status: int
    body: bytes
    content_type: str
    headers: Mapping[str, str] = field(default_factory=dict)
    policy: str = FILE_POLICY
    cache: str = "no-store"

    def all_headers(self) -> dict[str, str]:
        """Return every header, its own and those of all answers."""
        return {
            "Content-Type": self.content_type,
            "Content-Length": str(len(self.body)),
            "Cache-Control": self.cache,
            "Content-Security-Policy": self.policy,
            **ALWAYS,
            **self.headers,
        }


def json_answer(value: Any, status: int = 200) -> Answer:
    """Return a value as JSON."""
    body = json.dumps(value, allow_nan=False).encode()
    return Answer(status, body, "application/json; charset=utf-8")


def failure(status: int, line: str) -> Answer:
    """Return a mistake or failure as JSON: `{"error": line}`."""
    return json_answer({"error": line}, status)


class Refused(Exception):
    """A request that is refused with a status and one line."""

    def __init__(self, status: int, line: str) -> None:
        super().__init__(line)
        self.answer = failure(status, line)
