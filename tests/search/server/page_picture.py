"""Make the picture of the page that README.md shows, from the scenes of the quickstart.

python launch/embed.py runs/quickstart --data data/scenes/val --to embeddings/scenes
python launch/index.py embeddings/scenes --to indices/scenes
python -m tests.search.server.page_picture indices/scenes docs/search_page.png
"""

import io
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlencode

from PIL import Image

from tests.search.server.running import serving
from tests.services.browser_tab import open_tab
from xmodal.assembly.indexed_model import indexed_model
from xmodal.search.searcher import Searcher

SEARCH = {"text": "a blue star and a yellow circle", "where": "label = 'star'"}
SIZE = 1200, 690
LOADED = "[...document.querySelectorAll('.hit img')].slice(0, 12).every(one => one.naturalWidth)"


def main(index: str, target: str) -> None:
    """Search an index for `SEARCH`, and write what is seen as a PNG of few colours."""
    searcher = Searcher.open(index)
    searcher.load_model = lambda: indexed_model(searcher.info.model)
    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile,
        serving(searcher) as server,
        open_tab(Path(profile)) as tab,
    ):
        tab.open(f"{server.access.url}?{urlencode(SEARCH)}", *SIZE)
        tab.wait(f"document.querySelectorAll('.hit').length >= 12 && {LOADED}")
        tab.wait("!document.body.matches('.busy')")
        tab.evaluate("new Promise(done => setTimeout(done, 500))")  # what fades has faded
        seen = Image.open(io.BytesIO(tab.picture())).convert("RGB")
    few = seen.quantize(256, kmeans=8, dither=Image.Dither.NONE)
    few.save(target, optimize=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
