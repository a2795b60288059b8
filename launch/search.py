"""Search an index by a text, an image, both, or an indexed image.

    python launch/search.py indices/mine "a red dress"
    python launch/search.py INDEX --image FILE
    python launch/search.py INDEX --image FILE --modification "in blue"
    python launch/search.py INDEX --like KEY -k 50 --where "label = 'shirt' AND width >= 224"
    python launch/search.py INDEX --serve

Prints a table of the hits and writes them with their pictures as a page. INDEX is a folder that
launch/index.py wrote. The model that made the embeddings encodes texts and images; where it has
moved, name it with --model. --serve opens a page to search with, at http://127.0.0.1:8000.
"""

import sys

from xmodal.commands.search import main
from xmodal.errors import run_command

if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:], prog="python launch/search.py", description=__doc__))
