"""What the server imports once that every process of a test is forked from; it does nothing else.

These processes are CPU processes, also where there is a GPU.
"""

import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["DS_ACCELERATOR"] = "cpu"

import xmodal.assembly.session  # noqa: F401
