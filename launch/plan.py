"""Plan a run before it is queued: whether it fits, what it costs, what limits it. Needs no GPU.

    python launch/plan.py clip --gpus 64 --gpu h100-80
    python launch/plan.py RECIPE key=value --gpus N --gpu NAME --fit      # search what fits
    python launch/plan.py RECIPE --gpus N --gpu NAME --samples 400000000  # shards are elsewhere
    python launch/plan.py RECIPE --gpus 2 --gpu cpu --json

The run's own code takes its first step on shapes alone, as one of N ranks: a recipe that would fail
there fails here, in one line.
"""

import sys

from xmodal.commands.plan import main
from xmodal.errors import run_command

if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:], prog="python launch/plan.py", description=__doc__))
