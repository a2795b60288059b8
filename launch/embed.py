"""Embed a shard set by a trained model: vectors and metadata, for search and curation.

    python launch/embed.py runs/quickstart --data data/scenes/val --to embeddings/scenes
    python launch/embed.py MODEL --data s3://BUCKET/SHARDS --to s3://BUCKET/EMBEDDINGS
    deepspeed launch/embed.py MODEL --data URL --to URL          # on all GPUs of this machine

MODEL is a run, an exported folder, or a pretrained model that xmodal.load takes. The layout is
clip-retrieval's: img_emb/, text_emb/ and metadata/, one part a shard. The same command resumes an
interrupted one; its files do not depend on the number of ranks.
"""

import sys

from xmodal.commands.embed import main
from xmodal.errors import run_command

if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:], prog="python launch/embed.py", description=__doc__))
