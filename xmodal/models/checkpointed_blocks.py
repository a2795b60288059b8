"""Activation checkpointing by block (Chen et al. 2016, arXiv 1604.06174).

A block keeps its inputs alone, and is computed again for its part of the backward pass, in the
same random state: gradients are equal to the last bit. `selective` keeps the outputs of attention
and of matrix products too, which take most of the time, and computes only the rest again
(Korthikanti et al. 2022, arXiv 2205.05198).
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any, Literal

import torch
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
    noop_context_fn,
    set_checkpoint_early_stop,
)

from xmodal.models.blocks import Forward, compute_by
from xmodal.models.running_statistics import statistics_taken_again

Kept = Literal["blocks", "selective"]
Again = Callable[[nn.Module], AbstractContextManager[Any]]
Contexts = tuple[AbstractContextManager[Any], AbstractContextManager[Any]]
# Of convolutions nothing is kept: what follows them may change their output in place.
_KEPT_OPERATIONS = ("mm", "addmm", "bmm", "baddbmm")
_ATTENTION = "_scaled_dot_product_"


def checkpoint_block(
    block: nn.Module, kept: Kept, *, compiled: bool = False, again: Again = nullcontext
) -> None:
    """Have a block keep its inputs for the backward pass, and no more than `kept` says.

    `compiled` is true where the block will be compiled around that; else `again(block)` is the
    context in which it is computed again.
    """
    for part in block.modules():
        # What changes its input in place would change what is kept, or the input of the block.
        if getattr(part, "inplace", False):
            part.inplace = False  # type: ignore[assignment]
    given: dict[str, Any] = {"context_fn": _selective} if kept == "selective" else {}
    # A compiler computes operations again, an interpreter modules.
    contexts = partial(_contexts, given.get("context_fn", noop_context_fn), block, again)
    compute_by(block, partial(_checkpointed, given) if compiled else partial(_by_modules, contexts))


def _by_modules(contexts: Any, forward: Forward, *args: Any, **kwargs: Any) -> Any:
    # To the end: modules within may have to let go of weights that were gathered for them.
    with set_checkpoint_early_stop(False):
        return _checkpointed({"context_fn": contexts}, forward, *args, **kwargs)


def _checkpointed(given: dict[str, Any], forward: Forward, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **given, **kwargs)


def _contexts(given: Any, block: nn.Module, again: Again) -> Contexts:
    """Return the contexts of a block's forward, and of its forward again."""
    first, second = given()
    return first, _second(second, block, again)


@contextmanager
def _second(context: AbstractContextManager[Any], block: nn.Module, again: Again) -> Iterator[None]:
    with again(block), statistics_taken_again(block), context:
        yield


def _selective() -> Contexts:
    return create_selective_checkpoint_contexts(_policy)


def _policy(_context: Any, operation: Any, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
    name = operation.overloadpacket.__name__
    kept = name in _KEPT_OPERATIONS or name.startswith(_ATTENTION)
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE
