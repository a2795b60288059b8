"""Averaged weights, which an optimiser keeps in its state: in training, and in a checkpoint.

As a part of that state they are shared out by ZeRO, saved, resumed and resharded like moments.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from xmodal.errors import UserError
from xmodal.runs.checkpoints.load import load_weights
from xmodal.runs.checkpoints.resharding import saved_pieces
from xmodal.runs.checkpoints.state_files import read_optimizer_file

Weights = Literal["averaged", "trained"]  # of a checkpoint
# Keys in the state of a weight: of the average that is used in its place, and of the one that a
# momentum encoder computes with.
AVERAGE, MOMENTUM = "average", "momentum_encoder"


@contextmanager
def averaged(engine: Any, key: str = AVERAGE) -> Iterator[bool]:
    """Have an engine's module compute with the averaged weights, as long as the block lasts.

    The block gets whether there are any. Buffers, and weights that the stage does not train, are
    those of training. All ranks call this.
    """
    from xmodal.runs.deepspeed_shares import fill_weights, has_state, optimizer_shares

    if not has_state(engine, key):
        yield False
        return
    # Without ZeRO the optimiser steps the module's own weights, and there is no other copy.
    shares = optimizer_shares(engine) if not engine.zero_optimization_stage() else ()
    trained = {weights: weights.detach().clone() for weights, _, _ in shares}
    fill_weights(engine, lambda weights, state: state.get(key, weights))
    try:
        yield True
    finally:
        fill_weights(engine, lambda weights, _: trained.get(weights, weights))


def load_chosen_weights(
    method: nn.Module, folder: Path, zero: int, choice: Weights | None
) -> Weights:
    """Load a checkpoint's weights into a method in one process, and return which they are.

    Without a `choice` they are the averaged ones where the checkpoint has them. Raises `UserError`
    where it lacks those that are asked for, or they do not fit the method.
    """
    load_weights(method, folder, zero)
    averages = read_averages(folder, zero)
    if choice == "averaged" and not averages:
        raise UserError(
            f"checkpoint {folder} has no averaged weights: its stage has neither ema nor a "
            "schedule-free optimizer; choose the weights `trained`"
        )
    chosen: Weights = choice or ("averaged" if averages else "trained")
    if chosen == "averaged":
        _put(averages, method)
    return chosen


def read_averages(folder: Path, zero: int) -> dict[str, Tensor]:
    """Return a checkpoint's averaged weights by name, flat under ZeRO; {} if there are none.

    Raises `UserError` if its files hold something else.
    """
    try:
        if not zero:
            return _averages_of_all(folder)
        pieces = saved_pieces(folder)
        return {name: torch.cat(of[AVERAGE]) for name, of in pieces.items() if AVERAGE in of}
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UserError(
            f"checkpoint {folder} does not hold the optimiser of ZeRO {zero}; name another one, or "
            "restore it"
        ) from error


def _averages_of_all(folder: Path) -> dict[str, Tensor]:
    """Return the averaged weights that every rank has, without ZeRO."""
    saved = read_optimizer_file(folder / "mp_rank_00_model_states.pt").get("optimizer")
    if saved is None:  # of a checkpoint of weights alone
        return {}
    states = saved["state"]
    return {
        name: states[number][AVERAGE]
        for group in saved["param_groups"]
        for number, name in zip(group["params"], group.get("names", ()), strict=False)
        if AVERAGE in states.get(number, ())
    }


@torch.no_grad()
def _put(averages: Mapping[str, Tensor], method: nn.Module) -> None:
    # A weight of two names is there under the first of them, here and in the optimiser.
    for name, parameter in method.named_parameters():
        if name in averages:
            parameter.copy_(averages[name].view_as(parameter))
