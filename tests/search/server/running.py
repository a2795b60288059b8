"""A running server of an index, for as long as a block."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread

from xmodal.search.searcher import Searcher
from xmodal.search.server.server import SearchServer


@contextmanager
def serving(searcher: Searcher, host: str = "127.0.0.1") -> Iterator[SearchServer]:
    """Serve an index in a thread, at a free port."""
    with SearchServer(searcher, host, 0) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
