"""The server of an index by real requests: its answers, and what it refuses."""

import http.client
import json
import os
import re
import signal
import socket
import struct
import time
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from tests.processes import CONTEXT
from tests.search.embedding_folders import image_record, write_embeddings
from tests.search.server.colour_index import (
    COLOURS,
    FORMATS,
    PICTURES,
    SHARD,
    colour_model,
    colour_searcher,
    embed,
    picture,
    write_colour_index,
)
from tests.search.server.running import serving
from tests.services.browser import HOSTILE
from tests.services.s3 import Gateway
from xmodal.data.storage import open_storage
from xmodal.errors import UserError, run_command
from xmodal.search.build_index import build_index
from xmodal.search.embeddings import Embeddings
from xmodal.search.query import Query
from xmodal.search.searcher import Searcher
from xmodal.search.server.api import MAX_HITS, MAX_UPLOAD_BYTES
from xmodal.search.server.server import MAX_CONNECTIONS, SearchServer, serve

CAPTIONS = [text for text in HOSTILE if text.isprintable()]


@dataclass
class Reply:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def value(self) -> Any:
        assert self.status == 200, (self.status, self.body)
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The one line of a mistake."""
        assert self.status >= 400
        line = json.loads(self.body)["error"]
        assert line
        assert "\n" not in line
        return f"{self.status} {line}"


@pytest.fixture(scope="module")
def searcher(tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    return colour_searcher(tmp_path_factory.mktemp("colours"), CAPTIONS)


@pytest.fixture(scope="module")
def server(searcher: Searcher) -> Iterator[SearchServer]:
    with serving(searcher) as running:
        yield running


def ask(
    server: SearchServer,
    target: str,
    body: bytes | None = None,
    *,
    method: str = "",
    **headers: str,
) -> Reply:
    """Send a request; `_` in the name of a header stands for its dash."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method or ("GET" if body is None else "POST"), target, body, named)
    answer = connection.getresponse()
    reply = Reply(answer.status, dict(answer.headers), answer.read())
    connection.close()
    return reply


def search(server: SearchServer, body: bytes | None = None, **given: object) -> Any:
    return ask(server, f"/api/search?{urlencode(given)}", body).value


def rows(found: Any) -> list[int]:
    return [hit["row"] for hit in found["hits"]]


def test_the_index_is_described(server: SearchServer) -> None:
    info = ask(server, "/api/info").value
    assert info["sides"] == {"images": PICTURES, "texts": PICTURES}
    assert (info["texts"], info["modifications"]) == (True, False)
    assert {"key", "caption", "label", "labels", "shard"} <= set(info["columns"]["images"])


def test_searches_are_those_of_the_python_api(server: SearchServer, searcher: Searcher) -> None:
    upload = picture(COLOURS["blue"], "JPEG")
    for given, body, query in (
        ({"text": "a red dress"}, None, Query(text="a red dress")),
        ({"like": 7}, None, Query(like=7)),
        ({}, upload, Query(image=upload)),
    ):
        for side in ("images", "texts"):
            for where in ("", "label = 'green' AND width = 64"):
                found = search(server, body, **given, side=side, where=where, k=9)
                hits = searcher.search(query, side, 9, where=where or None)  # type: ignore[arg-type]
                assert found == {"hits": [hit.record() for hit in hits], "more": True}
    assert {hit["labels"][0] for hit in search(server, text="blue")["hits"]} == {"blue"}


def test_pages_follow_each_other_without_gaps(server: SearchServer) -> None:
    for given in ({"text": "green"}, {"where": "label = 'red'"}, {}):
        pages = [search(server, **given, k=25, start=start) for start in range(0, PICTURES, 25)]
        found = [row for page in pages for row in rows(page)]
        assert found == rows(search(server, **given, k=100)) + found[100:]
        assert len(set(found)) == len(found) == (40 if "where" in given else PICTURES)
        assert [page["more"] for page in pages] == [
            start + 25 < len(found) for start in range(0, PICTURES, 25)
        ]


def test_without_a_query_rows_are_listed(server: SearchServer) -> None:
    found = search(server, k=3)
    assert rows(found) == [0, 1, 2]
    assert [hit["score"] for hit in found["hits"]] == [None] * 3
    assert search(server, where="key = 'k77'")["hits"][0]["row"] == 77


def test_a_sample_has_its_metadata_and_captions(server: SearchServer) -> None:
    sample = ask(server, "/api/sample/50").value
    assert (sample["row"], sample["key"], sample["shard"]) == (50, "k50", SHARD)
    assert sample["captions"] == ["a blue picture 50"]
    assert ask(server, "/api/sample/0").value["captions"] == [CAPTIONS[0]]


def test_images_are_modified_by_composed_models(tmp_path: Path) -> None:
    with serving(colour_searcher(tmp_path, composed=True)) as server:
        info = ask(server, "/api/info").value
        assert (info["texts"], info["modifications"]) == (False, True)
        upload = picture(COLOURS["green"])
        for given, body in (({"like": 0}, None), ({}, upload)):
            before = search(server, body, **given)
            after = search(server, body, **given, modification="in blue")
            assert {hit["labels"][0] for hit in after["hits"]} == {"blue"}
            assert rows(before) != rows(after)
        error = ask(server, "/api/search?modification=in+blue").error
        assert error == "400 a modification needs the image that it changes"


def test_models_without_modifications_say_so(server: SearchServer) -> None:
    error = ask(server, "/api/search?like=0&modification=in+blue").error
    assert error.startswith("400 clip composes no queries")


@pytest.mark.parametrize("row", range(len(FORMATS)))
def test_pictures_have_the_type_that_their_header_says(server: SearchServer, row: int) -> None:
    reply = ask(server, f"/picture/{row}")
    kind = "PNG" if FORMATS[row] == "TIFF" else FORMATS[row]
    assert (reply.status, reply.headers["Content-Type"]) == (200, f"image/{kind.lower()}")
    if kind == FORMATS[row]:
        colour = [*COLOURS.values()][row % len(COLOURS)]
        assert reply.body == picture([max(0, c + row // 3 - 20) for c in colour], kind)
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in reply.headers["Content-Security-Policy"]


def test_pictures_are_cached_by_the_name_of_the_contents(server: SearchServer) -> None:
    version = ask(server, "/api/info").value["version"]
    assert "immutable" in ask(server, f"/picture/1?v={version}").headers["Cache-Control"]
    for other in ("/picture/1", "/picture/1?v=other", "/api/info", "/"):
        assert ask(server, other).headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("?where=lable+%3D+1", "where: unknown column lable (did you mean label?)"),
        ("?where=" + "(" * 1900, "where: "),
        ("?where=1;DROP+TABLE+x", "where: "),
        ("?where=" + "x" * 2001, "where has at most 2,000 characters"),
        ("?text=" + "x" * 2001, "text has at most 2,000 characters"),
        ("?like=-1", "like is the row of an image; where=key"),
        ("?like=k7", "like is the row of an image; where=key"),
        ("?like=000000003", "like is the row of an image; where=key"),
        ("?k=x", "k is a whole number"),
        (f"?like={PICTURES}", f"there is no row {PICTURES} among the {PICTURES} images"),
        ("?like=1&text=a", "a query has a text, an image or an indexed image"),
        ("?k=0", "k is at least 1"),
        ("?k=101", "k is at most 100"),
        (f"?start={MAX_HITS - 1}&k=2", f"start + k is at most {MAX_HITS:,}"),
        ("?side=queries", "side is 'images' or 'texts'"),
        ("?page=2", "unknown parameter page; there are: text, like,"),
        ("?k=1&k=2", "a parameter is given twice"),
        ("?text=%ff", "the parameters are no UTF-8, or too many"),
        ("?" + "&".join(f"a{n}=" for n in range(30)), "the parameters are no UTF-8, or too many"),
    ],
)
def test_mistakes_are_one_line(server: SearchServer, target: str, line: str) -> None:
    assert ask(server, f"/api/search{target}").error.startswith(f"400 {line}")


NOWHERE = [
    "/page.html",
    "/server.py",
    "/../server.py",
    "/page/page.js",
    "/picture/../page.js",
    "/picture/%2e%2e/0",
    "/picture/..%2f..%2fetc%2fpasswd",
    "/picture//etc/passwd",
    "//etc/passwd",
    "/%2fetc%2fpasswd",
    "/page.js/",
    "/page.js%00.html",
    "/picture/0/",
    "/picture/-1",
    "/picture/+1",
    "/picture/1e0",
    "/picture/%31",
    "/picture/" + "9" * 12,
    "/picture/" + "9" * 5000,
    f"/picture/{PICTURES}",
    f"/api/sample/{PICTURES}",
    "/api/sample/" + quote("<script>"),
    "/api",
    "/api/search/",
    "http://127.0.0.1/page.js",
    "page.js",
    "*",
]


@pytest.mark.parametrize("path", NOWHERE)
def test_nothing_else_is_there(server: SearchServer, path: str) -> None:
    reply = ask(server, path)
    assert reply.error.startswith("404 ")
    assert reply.headers["Content-Type"].startswith("application/json")


@pytest.mark.s3
def test_pictures_come_from_a_bucket(
    s3: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    index, bucket = write_colour_index(tmp_path), s3.bucket()
    open_storage(bucket).write(f"{bucket}/{SHARD}", (tmp_path / SHARD).read_bytes())
    (tmp_path / SHARD).unlink()
    described = json.loads((index / "index.json").read_text())
    described["data"] |= {"url": bucket, "shards": [f"{bucket}/{SHARD}"]}
    (index / "index.json").write_text(json.dumps(described))
    with serving(Searcher.open(index, colour_model)) as server, ThreadPoolExecutor(8) as pool:
        paths = [f"/picture/{row}" for row in range(PICTURES)]
        replies = list(pool.map(partial(ask, server), paths))
    assert {reply.status for reply in replies} == {200}
    assert replies[60].body == picture(COLOURS["red"], "PNG")


def test_a_row_whose_shard_is_not_of_the_index_has_no_picture(tmp_path: Path) -> None:
    """Metadata of others may name any file; only the index' own shards are read."""
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture(COLOURS["red"]))
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "a.tar").write_bytes(b"<html>" + b" " * 1000)
    names = ["../secret.png", str(secret), f"shards/../{secret.name}", "a.tar"]
    records = [image_record(name, shard=name, offset=0, size=900) for name in names]
    vectors = embed([[200, 0, 0]] * len(names)).reshape(-1, 3)
    shards = [str(tmp_path / "shards" / "a.tar")]
    write_embeddings(tmp_path / "e", [(vectors, records)], shards=shards)
    build_index(Embeddings(tmp_path / "e"), tmp_path / "i", None, 10**9, lambda _: None)
    with serving(Searcher.open(tmp_path / "i", colour_model)) as server:
        for row in range(3):
            error = ask(server, f"/picture/{row}").error
            assert error == f"404 row {row} has no image in the shards of the index"
        assert ask(server, "/picture/3").error == "404 row 3: image does not decode (not an image)"


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:80",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "",
        "[",
    ],
)
def test_names_that_strangers_point_here_are_refused(server: SearchServer, host: str) -> None:
    for path in ("/", "/api/info", "/picture/0"):
        assert ask(server, path, Host=host).error.startswith("421 ")


def test_addresses_of_this_machine_are_not(server: SearchServer) -> None:
    port = server.server_port
    for host in ("127.0.0.1", f"localhost:{port}", f"LOCALHOST:{port}", "[::1]:9000", "10.0.0.1"):
        assert ask(server, "/api/info", Host=host).status == 200


def test_pages_of_other_sites_cannot_use_it(server: SearchServer) -> None:
    for site in ("cross-site", "same-site"):
        for path in ("/api/search?text=red", "/picture/0", "/page.js"):
            assert ask(server, path, Sec_Fetch_Site=site).error.startswith("403 ")
        assert ask(server, "/?text=red", Sec_Fetch_Site=site).status == 200  # a link
    for site in ("same-origin", "none"):
        assert ask(server, "/picture/0", Sec_Fetch_Site=site).status == 200
    for header in ask(server, "/api/info", Origin="http://evil.example").headers:
        assert not header.startswith("Access-Control")


def test_other_addresses_need_the_token(searcher: Searcher) -> None:
    with serving(searcher, "0.0.0.0") as server:
        token, cookie = server.access.token, f"xmodal-{server.server_port}="
        assert token
        assert server.access.url.endswith(f":{server.server_port}/?token={token}")
        for path in ("/", "/page.js", "/api/info", "/api/search?text=red", "/picture/0"):
            for wrong in ({}, {"Cookie": f"{cookie}x"}, {"Cookie": f"other={token}"}):
                assert ask(server, path, **wrong).error.startswith("401 the token is missing")
            separator = "&" if "?" in path else "?"
            for wrong in ("", token[:-1], "é", token.swapcase()):
                given = f"{path}{separator}token={quote(wrong)}"
                assert ask(server, given).error.startswith("401 the token is wrong")
            assert ask(server, path, Cookie=f"a=b; {cookie}{token}; c=d").status == 200
        upload = picture(COLOURS["red"])
        assert ask(server, "/api/search", upload).error.startswith("401 ")
        assert ask(server, f"/api/search?token={token}", upload).status == 200
        reply = ask(server, f"/?text=a+b&token={token}")
        assert (reply.status, reply.headers["Location"]) == (303, "/?text=a+b")
        given = reply.headers["Set-Cookie"]
        assert given == f"{cookie}{token}; Path=/; HttpOnly; SameSite=Strict"
        assert ask(server, f"/?token={token}").headers["Location"] == "/"


def test_the_loopback_needs_none(server: SearchServer) -> None:
    assert server.access.token is None
    assert server.access.url == f"http://127.0.0.1:{server.server_port}/"


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header says a size, of no pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    chunks = (header, data, b"IEND")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(one) - 4) + one + struct.pack(">I", zlib.crc32(one)) for one in chunks
    )


@pytest.mark.parametrize(
    ("upload", "line"),
    [
        (b"", "the body is empty; send an image in it"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "the image cannot be used: image does not"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "the image cannot be used: image does not decode"),
        (png_of(60_000, 60_000), "the image cannot be used: image is too large"),
        (png_of(8_000, 8_000), "the image cannot be used: image is too large (over 50,000,000"),
        (
            picture(COLOURS["red"])[:-20],
            "image 0: image does not decode (truncated)",
        ),
    ],
    ids=["empty", "svg", "postscript", "bomb", "large", "truncated"],
)
def test_uploads_that_are_no_images(server: SearchServer, upload: bytes, line: str) -> None:
    assert ask(server, "/api/search", upload).error.startswith(f"400 {line}")


def test_uploads_that_are_too_large(server: SearchServer) -> None:
    assert ask(server, "/api/search", b"x" * (MAX_UPLOAD_BYTES + 1)).error.startswith("413 ")
    # The answer comes before the body.
    reply = ask(server, "/api/search", method="POST", Content_Length=str(10**12))
    assert reply.error == "413 an image has at most 20 MiB"
    assert reply.headers["Connection"] == "close"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content_Length": "9" * 5000}, 411),
        ({"Content_Length": "-1"}, 411),
        ({"Content_Length": "1_0"}, 411),
        ({"Transfer_Encoding": "chunked"}, 411),
    ],
)
def test_bodies_without_a_length(
    server: SearchServer, headers: dict[str, str], status: int
) -> None:
    assert ask(server, "/api/search", method="POST", **headers).error.startswith(f"{status} ")


def test_other_requests(server: SearchServer) -> None:
    assert ask(server, "/api/search?text=" + "x" * 20_000).error.startswith("414 ")
    assert ask(server, "/" + "x" * 70_000).error.startswith("414 ")
    assert ask(server, "/api/info", b"body").error == "405 POST is for /api/search"
    assert ask(server, "/api/info", method="DELETE").error.startswith("501 ")
    head, page = ask(server, "/", method="HEAD"), ask(server, "/")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == str(len(page.body))


def raw(server: SearchServer, data: bytes) -> bytes:
    """Send bytes, and return all that comes until the connection is closed."""
    with socket.create_connection(("127.0.0.1", server.server_port), 60) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(2**16), b""))


def test_what_is_no_http(server: SearchServer) -> None:
    assert raw(server, b"\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n").count(b'{"error": ') == 1
    assert b" 421 " in raw(server, b"GET / HTTP/1.0\r\n\r\n")
    assert raw(server, b"POST /api/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n"
               b"1234") == b""  # fmt: skip
    assert ask(server, "/api/info").status == 200


def test_text_is_utf8_escaped_or_not(server: SearchServer) -> None:
    where = "caption = 'العـ 中文 🙂'"
    escaped = f"/api/search?where={quote(where)}"
    plain = f"GET /api/search?where={where.replace(' ', '+')} HTTP/1.0\r\nHost: localhost\r\n\r\n"
    assert ask(server, escaped).value["hits"] == []
    assert raw(server, plain.encode()).endswith(b'{"hits": [], "more": false}')


def test_one_query_at_a_time_beside_pictures(server: SearchServer, searcher: Searcher) -> None:
    """Many at once get the answers that each gets alone."""
    targets = [f"/api/search?text={name}&k=5" for name in COLOURS] + ["/picture/4", "/api/sample/3"]
    alone = [ask(server, target).body for target in targets]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda target: ask(server, target).body, targets * 8))
    assert together == alone * 8


def test_silent_connections_are_bounded_and_block_no_other(server: SearchServer) -> None:
    address = ("127.0.0.1", server.server_port)
    silent = [socket.create_connection(address, 60) for _ in range(MAX_CONNECTIONS - 8)]
    assert ask(server, "/api/info").status == 200
    silent += [socket.create_connection(address, 60) for _ in range(16)]
    assert silent[-1].recv(1) == b""  # closed at once
    for one in silent:
        one.close()


def test_hostile_captions_and_names_are_data(server: SearchServer) -> None:
    found = search(server, k=len(CAPTIONS))["hits"]
    assert [hit["caption"] for hit in found] == CAPTIONS
    assert {hit["shard"] for hit in found} == {SHARD}
    page = ask(server, "/")
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "script-src 'self'" in page.headers["Content-Security-Policy"]
    assert "unsafe" not in page.headers["Content-Security-Policy"]


def test_failures_of_the_server_keep_it_alive(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = colour_model()
    broken.encode_texts = None
    index = colour_searcher(tmp_path).index
    with serving(Searcher(index, lambda: broken)) as server:
        error = ask(server, "/api/search?text=red").error
        assert error == "500 the server failed; its terminal shows why"
        assert ask(server, "/api/search?like=1").status == 200
    assert "TypeError" in capsys.readouterr().err


def test_addresses_that_cannot_be_listened_at(server: SearchServer, searcher: Searcher) -> None:
    taken = server.server_port
    for host, port, line in (
        ("127.0.0.1", taken, f"port {taken} is in use; name another one with --port"),
        ("192.0.2.1", 0, r"--host 192\.0\.2\.1 is no address of this machine"),
        ("nowhere.invalid", 0, r"--host nowhere\.invalid is no address of"),
    ):
        with pytest.raises(UserError, match=line):
            SearchServer(searcher, host, port)


def serve_colours(folder: Path, out: Path) -> None:
    """Serve as the command does, in a process of its own."""
    index = Searcher.open(folder / "index", colour_model)

    def say(line: str) -> None:
        with out.open("a") as file:
            print(line, file=file)

    run_command(lambda: serve(index, "127.0.0.1", 0, say))


def test_ctrl_c_ends_it_cleanly(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write_colour_index(tmp_path)
    process = CONTEXT.Process(target=serve_colours, args=(tmp_path, tmp_path / "out"))
    process.start()
    end = time.monotonic() + 60
    while not (tmp_path / "out").exists() or "\n" not in (tmp_path / "out").read_text():
        assert time.monotonic() < end
        time.sleep(0.02)
    (line,) = (tmp_path / "out").read_text().splitlines()
    found = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/ searches (.*); Ctrl-C ends it", line)
    assert found
    assert found[2] == str(tmp_path / "index")
    connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=60)
    connection.request("GET", "/api/info")
    assert connection.getresponse().status == 200  # and it stays connected
    os.kill(process.pid or 0, signal.SIGINT)
    process.join(60)
    assert process.exitcode == 0
    assert capfd.readouterr().err == ""
