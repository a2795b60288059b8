"""Index embeddings for search: exactly where they are few, else approximately, by faiss.

    python launch/index.py embeddings/mine --to indices/mine
    python launch/index.py EMBEDDINGS --to INDEX --kind ivf --memory 4GB

EMBEDDINGS is a folder that launch/embed.py wrote, on a disk or in a bucket. Kinds: exact (every
vector is compared), ivf (inverted lists of compressed vectors; hits are scored exactly), hnsw (a
graph, which is built and searched in memory). Recall against exact search is measured and printed.
"""

import sys

from xmodal.commands.index import main
from xmodal.errors import run_command

if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:], prog="python launch/index.py", description=__doc__))
