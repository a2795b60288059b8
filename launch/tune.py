"""Search a recipe's values: trials under Ray Tune, each a training of its own.

    python launch/tune.py quickstart --space quickstart
    python launch/tune.py RECIPE --space SPACE --sweep DIR data.train=URL data.val=URL
    sbatch --nodes=4 slurm/tune.sbatch RECIPE --space SPACE

RECIPE is a name in xmodal/recipes or the path of a YAML file; key=value overrides any key of it.
SPACE is the path of a YAML file with the keys to search, the search method, and the metric
(docs/tuning.md), or a name in xmodal/spaces. The folder of the sweep (--sweep DIR) keeps
everything; the same command resumes where it was stopped. It ends with a table of the trials,
DIR/best.yaml, a recipe that launch/train.py takes, and DIR/report/index.html. Each of DIR/trials is
the run folder of a trial.
"""

import sys

from xmodal.commands.tune import main
from xmodal.errors import run_command

if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:], prog="python launch/tune.py", description=__doc__))
