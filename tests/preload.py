"""What the server imports once that every process of a test is forked from; it does nothing else.

What a command imports late, such as its networks, is here too: it costs each process two seconds.
These processes are CPU processes, also where there is a GPU.
"""

import atexit
import gc
import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["DS_ACCELERATOR"] = "cpu"

import timm  # noqa: F401
import torch.utils.tensorboard  # noqa: F401

import xmodal.assembly.embedding_job
import xmodal.assembly.session
import xmodal.commands.embed
import xmodal.commands.evaluate
import xmodal.commands.train
import xmodal.runs.deepspeed_adapter  # noqa: F401

# No process searches for garbage in what all of them share; Triton looks for it when this one ends.
gc.freeze()
atexit.register(gc.unfreeze)
