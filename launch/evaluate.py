"""Measure a run's checkpoint: retrieval of captions, of classes, of images; gap, zero-shot, probes.

    python launch/evaluate.py runs/quickstart
    python launch/evaluate.py runs/flickr8k_locked --data URL --checkpoint best
    python launch/evaluate.py RUN --protocol class --protocol gap
    python launch/evaluate.py RUN --data URL --probe-train URL --protocol linear-probe
    python launch/evaluate.py RUN --data QUERIES --gallery URL --protocol fashion200k
    python launch/evaluate.py RUN --data TEST1 --gallery URL --protocol cirr --submission DIR
    deepspeed --num_accelerators 2 launch/evaluate.py RUN      # the work dealt to two processes

Prints a table a protocol and writes results.json and report/index.html. The results of the newest
checkpoint on the run's own data.val, by its own protocols, are the run's own and go into RUN; all
others into a folder of RUN/evaluations, or into the DIR of --output. With --submission it writes
the two files that CIRR's server takes, and nothing else.
"""

import sys

from xmodal.commands.evaluate import main
from xmodal.errors import run_command

if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:], prog="python launch/evaluate.py", description=__doc__))
