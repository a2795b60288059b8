"""Preparation of the blocks of a method's encoders for training: checkpointed and compiled."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Literal

from torch import nn

from xmodal.errors import UserError
from xmodal.models.blocks import blocks_of
from xmodal.models.checkpointed_blocks import Again, checkpoint_block
from xmodal.models.compiled_blocks import check_compiler, compile_block
from xmodal.models.layer_groups import encoders_of

Checkpointing = Literal["none", "blocks", "selective"]


def prepare_blocks(
    method: nn.Module, checkpointing: Checkpointing, *, compiles: bool, again: Again = nullcontext
) -> list[str]:
    """Have the blocks of a method's encoders checkpointed and compiled; return lines for the log.

    `again(block)` is the context in which a block is computed again. Names of parameters and
    modules stay as they are. Called once for a method.
    """
    lines = []
    for name, blocks in _blocks(method).items():
        one_shape = method.get_submodule(name).one_shape
        for block in blocks.values():
            if checkpointing != "none":
                checkpoint_block(block, checkpointing, compiled=compiles, again=again)
            if compiles:
                compile_block(block, dynamic=not one_shape)
        if compiles or checkpointing != "none":
            lines.append(_line(name, len(blocks), checkpointing, compiles=compiles))
    return lines


def check_blocks(
    method: nn.Module, checkpointing: Checkpointing, *, compiles: bool, zero: int
) -> None:
    """Raise `UserError` where the encoders of a method cannot be checkpointed or compiled."""
    keys = ["training.compile"] if compiles else []
    keys += ["training.checkpoint_activations"] if checkpointing != "none" else []
    if keys and not any(_blocks(method).values()):
        raise UserError(
            f"{keys[0]}: no encoder of the method has blocks (recurrent networks and features of "
            f"shards have none); remove {' and '.join(keys)}"
        )
    if compiles:
        check_compiler("training.compile")
    if checkpointing == "selective" and zero == 3:
        raise UserError(
            "training.checkpoint_activations: training.zero=3 gathers weights within a block, "
            "which cannot be computed again selectively; write blocks, or use training.zero=2"
        )
    if compiles and zero == 3:
        raise UserError(
            "training.compile: training.zero=3 gathers the weights of each layer within a block, "
            "which cannot be compiled; use training.zero=2, or write training.compile: false"
        )


def _blocks(method: nn.Module) -> dict[str, Mapping[str, nn.Module]]:
    """Return the blocks of each encoder that has parameters, by names."""
    return {
        name: blocks_of(encoder)
        for name, encoder in encoders_of(method).items()
        if any(True for _ in encoder.parameters())
    }


def _line(name: str, blocks: int, checkpointing: Checkpointing, *, compiles: bool) -> str:
    if not blocks:
        return f"{name} has no blocks: it is neither compiled nor checkpointed"
    done = ["compiled at the first step"] if compiles else []
    done += {"none": [], "blocks": ["checkpointed"], "selective": ["checkpointed selectively"]}[
        checkpointing
    ]
    return f"{name}: {blocks} blocks, {' and '.join(done)}"
