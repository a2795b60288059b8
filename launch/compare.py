"""Compare runs side by side: metrics, differences with intervals, curves, queries that differ.

    python launch/compare.py runs/first runs/second --to comparisons/mine
    python launch/compare.py RUN RUN RUN --to DIR
    python launch/compare.py runs/first/evaluations/NAME runs/second/evaluations/NAME --to DIR

Each RUN is a run folder or a folder of results (of RUN/evaluations, or of --output). Differences
are to the first one. Prints a table a protocol and writes DIR/report/index.html.
"""

import sys

from xmodal.commands.compare import main
from xmodal.errors import run_command

if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:], prog="python launch/compare.py", description=__doc__))
