"""The site of an index: each path's answer. No path reaches a file system."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

from xmodal.errors import UserError
from xmodal.search.server.access import Access
from xmodal.search.server.answers import PAGE_POLICY, Answer, Refused, json_answer
from xmodal.search.server.api import Api, SearchParameters

MAX_TARGET = 16_384  # characters of a request's path and parameters
MAX_FIELDS = 20
LONGEST_ROW = 12  # digits
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_HOME = "page.html"


@dataclass(frozen=True)
class Request:
    """A request whose host is known; the body is an image."""

    path: str
    parameters: Mapping[str, str]
    body: bytes | None = None  # None: GET


def read_target(target: str) -> tuple[str, dict[str, str]]:
    """Return the path and the parameters of a request's target; raises `Refused`."""
    if len(target) > MAX_TARGET:
        raise Refused(414, f"a request has at most {MAX_TARGET:,} characters")
    path, _, query = target.partition("?")
    try:
        text = query.encode("latin-1").decode()  # as curl sends what is not escaped
        pairs = parse_qsl(text, True, errors="strict", max_num_fields=MAX_FIELDS)
    except ValueError:
        raise Refused(400, "the parameters are no UTF-8, or too many") from None
    if len(dict(pairs)) < len(pairs):
        raise Refused(400, "a parameter is given twice")
    return path, dict(pairs)


class Site:
    """Paths of the page, its pictures and its API."""

    def __init__(self, api: Api, access: Access) -> None:
        self.api, self.access = api, access
        self._files = {path.name: path for path in (Path(__file__).parent / "page").iterdir()}
        self._contents = {name: path.read_bytes() for name, path in self._files.items()}

    def answer(self, request: Request) -> Answer:
        """Return the answer to a request; raises `Refused`, and `UserError` for mistakes."""
        parts = request.path.split("/")[1:]
        if request.body is not None and parts != ["api", "search"]:
            raise Refused(405, "POST is for /api/search")
        match parts:
            case ["api", "search"]:
                parameters = SearchParameters.of(request.parameters)
                return json_answer(self.api.search(parameters, request.body))
            case ["api", "info"]:
                return json_answer(self.api.info())
            case ["api", "sample", row]:
                return json_answer(self._sample(row))
            case ["picture", row]:
                return self._picture(row, request.parameters.get("v"))
            case [""]:
                return self._home(request.parameters)
            case [name] if name in self._contents and name != _HOME:
                return self._file(name)
        raise Refused(404, "there is nothing at this address")

    def _sample(self, row: str) -> object:
        try:
            return self.api.sample(_row(row))
        except UserError as error:
            raise Refused(404, str(error)) from None

    def _picture(self, row: str, version: str | None) -> Answer:
        try:
            data, kind = self.api.picture(_row(row))
        except UserError as error:
            raise Refused(404, str(error)) from None
        stays = version == self.api.version
        cache = "private, max-age=86400, immutable" if stays else "no-store"
        return Answer(200, data, kind, cache=cache)

    def _home(self, parameters: Mapping[str, str]) -> Answer:
        """Return the page; where the address has the token, move that into a cookie first."""
        if "token" not in parameters or self.access.token is None:
            return self._file(_HOME)
        rest = {name: value for name, value in parameters.items() if name != "token"}
        target = "/?" + urlencode(rest) if rest else "/"
        headers = {"Location": target, "Set-Cookie": self.access.cookie}
        return Answer(303, b"", "text/plain", headers)

    def _file(self, name: str) -> Answer:
        kind = _TYPES[self._files[name].suffix]
        return Answer(200, self._contents[name], kind, policy=PAGE_POLICY)


def _row(digits: str) -> int:
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= LONGEST_ROW):
        raise Refused(404, "a row is a whole number")
    return int(digits)
