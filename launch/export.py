"""Export a trained model as a folder that other libraries, servers or xmodal.load read.

    python launch/export.py runs/mine --to mine-hf --format hf
    python launch/export.py RUN --to DIR --format open_clip --checkpoint best --license apache-2.0
    python launch/export.py RUN --to DIR --format onnx --int8

Formats: xmodal (any method), onnx (the encoders of any method), open_clip and hf (towers of CLIP
and SigLIP), sentence-transformers (two towers). Each folder has a model card, README.md. RUN is
a run, or a folder or file that xmodal.load reads.
"""

import sys

from xmodal.commands.export import main
from xmodal.errors import run_command

if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:], prog="python launch/export.py", description=__doc__))
