"""Calls a function where objectives run in Triton's kernel, interpreted: no GPU is needed.

    TRITON_INTERPRET=1 python -m tests.objectives.interpret CALL.pt RESULT.pt

Triton decides when it is imported whether it interprets, so this is a process of its own.
"""

import sys
from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

from xmodal.objectives.pairwise import engine, triton_launch
from xmodal.objectives.pairwise.triton_launch import blocks

# Small, so that a few hundred rows are many blocks and programs take several.
SMALL = {(False, 2): blocks(32, 64, 64), (False, 4): blocks(64, 32, 64)}


def multiply_bfloat16(builder: Any, a: Any, b: Any, *others: Any) -> Any:
    """Multiply as the hardware does: the interpreter takes the bits of bfloat16 for integers."""
    return create_dot(builder, *map(widened, (a, b)), *others)


def widened(values: Any) -> Any:
    if values.dtype.scalar != tl.bfloat16:
        return values
    numbers = interpreter._convert_float(values.data, tl.bfloat16, tl.float32, None)
    return interpreter.TensorHandle(numbers.view(np.float32), tl.float32)


create_dot = interpreter.InterpreterBuilder.create_dot

if __name__ == "__main__":
    interpreter.InterpreterBuilder.create_dot = multiply_bfloat16
    engine.runs_kernels = lambda _: True
    triton_launch.FIXED = SMALL
    function, arguments = torch.load(sys.argv[1], weights_only=False)
    torch.save(function(*arguments), sys.argv[2])
