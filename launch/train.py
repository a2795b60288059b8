"""Train a recipe.

    deepspeed launch/train.py quickstart
    deepspeed --num_accelerators 2 launch/train.py flickr8k_scratch data.train=URL data.val=URL
    python launch/train.py RECIPE run=DIR                 # one process, without a launcher

RECIPE is a name in xmodal/recipes or the path of a YAML file; key=value overrides any key of it.
The run folder (run=DIR) keeps everything; the same command resumes where it was stopped.
"""

import sys

from xmodal.commands.train import main
from xmodal.errors import run_command

if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:], prog="python launch/train.py", description=__doc__))
