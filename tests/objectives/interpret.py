"""Calls a function where log-sum-exp runs on Triton's kernels, interpreted: no GPU is needed.

    TRITON_INTERPRET=1 python -m tests.objectives.interpret CALL.pt RESULT.pt

Triton decides when it is imported whether it interprets, so this is a process of its own.
"""

import sys

import torch

from xmodal.objectives.pairwise import log_sum_exp, triton_tiles

if __name__ == "__main__":
    sys.modules[log_sum_exp.__module__].tile_functions = lambda _: triton_tiles
    function, arguments = torch.load(sys.argv[1], weights_only=False)
    torch.save(function(*arguments), sys.argv[2])
