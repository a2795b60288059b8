"""Interpolate the weights of two runs: a model between them, or the curve of several.

    python launch/interpolate.py runs/before runs/after --alpha 0.5 --to models/between
    python launch/interpolate.py B --alphas 0,0.25,0.5,0.75,1 --to models/curve

(1 - alpha) · A + alpha · B (WiSE-FT): at 0 the model A, by default the pretrained one that B began
with, at 1 the model B. --alpha writes a run folder that launch/evaluate.py and `xmodal.load` take.
--alphas measures each and writes a table and a plot, curve.json and report/index.html.
"""

import sys

from xmodal.commands.interpolate import main
from xmodal.errors import run_command

if __name__ == "__main__":
    run_command(
        lambda: main(sys.argv[1:], prog="python launch/interpolate.py", description=__doc__)
    )
