"""Compilation of an encoder by block: equal blocks are compiled once."""

import logging
import os
import shutil
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from xmodal.errors import UserError
from xmodal.models.blocks import Forward, compute_by

COMPILERS = ("g++", "clang++")
# What is drawn at random is drawn by PyTorch: the gradient cache encodes a sample twice, by two
# graphs, and dropout has to be the same in both.
OPTIONS: dict[str, Any] = {"fallback_random": True}
BACKEND = "inductor"
# Shapes, modes and settings in which blocks of one encoder differ: PyTorch compiles each, and
# beyond this number computes without the compiler.
MOST_VARIANTS = 128


def check_compiler(key: str) -> None:
    """Raise `UserError`, which names the recipe's `key`, where there is no C++ compiler."""
    given = os.environ.get("CXX")
    names = [given] if given else COMPILERS
    if not any(shutil.which(name) for name in names):
        raise UserError(
            f"{key}: torch.compile needs a C++ compiler, and there is no {' or '.join(names)}; "
            f"install g++, or write {key}: false"
        )


def compile_block(block: nn.Module, *, dynamic: bool) -> None:
    """Have a block compiled when training first computes it; evaluation computes it as it is.

    With `dynamic`, what is compiled is for inputs of all lengths, else for those of one shape.
    """
    compute_by(block, partial(_in_training, dynamic, block))


def _in_training(
    dynamic: bool, block: nn.Module, forward: Forward, *args: Any, **kwargs: Any
) -> Any:
    # The modes of a locked block are those of evaluation: it is computed as it is.
    compute = _compiled(dynamic) if block.training else _call
    return compute(forward, *args, **kwargs)


def _call(forward: Forward, *args: Any, **kwargs: Any) -> Any:
    return forward(*args, **kwargs)


@cache
def _compiled(dynamic: bool) -> Callable[..., Any]:
    """Return `_call` compiled, the same for all blocks, so that equal ones share what is made."""
    torch._dynamo.config.recompile_limit = MOST_VARIANTS
    # It warns of operations in place where activations are kept selectively; blocks have none.
    logging.getLogger("torch._higher_order_ops.wrap").setLevel(logging.ERROR)
    options = OPTIONS if BACKEND == "inductor" else None
    compiled: Callable[..., Any] = torch.compile(
        _call, dynamic=dynamic, backend=BACKEND, options=options
    )
    return compiled
