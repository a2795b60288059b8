"""Find what a shard set should not have, and write a list of the samples to keep.

    python launch/curate.py duplicates EMBEDDINGS --to curated/duplicates
    python launch/curate.py leakage TRAIN_EMBEDDINGS --against TEST_EMBEDDINGS --to DIR
    python launch/curate.py clip-score EMBEDDINGS --best 0.3 --to DIR
    python launch/curate.py outliers EMBEDDINGS --to DIR
    python launch/curate.py confused EMBEDDINGS --to DIR
    python launch/curate.py clusters EMBEDDINGS --number 100 --to DIR
    python launch/curate.py mine EMBEDDINGS --margin 0.05 --to DIR
    python launch/curate.py keep-list EMBEDDINGS --from datacomp.npy --to DIR

EMBEDDINGS is a folder that launch/embed.py wrote, or one of launch/index.py. DIR gets a table of
what was found, report.html with pictures, and keep.parquet, which data.train takes as `keep`.
"""

import sys

from xmodal.commands.curate import main
from xmodal.errors import run_command

if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:], prog="python launch/curate.py", description=__doc__))
