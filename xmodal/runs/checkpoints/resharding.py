"""Resharding of an optimiser's state for another number of ranks.

Under ZeRO each rank keeps a part of the optimiser's state, one flat tensor per group. Checkpoints
and engines both record which part of which parameter lies where: saved parts are assembled by the
parameters' names, and each rank takes its new share, without an intermediate file.

DeepSpeed's universal checkpoints cannot be used: they support Adam's two moments only (no momentum
of SGD, no third moment of AMSGrad), under ZeRO 3 they give every group the options of the first,
and they fail if a rank has no part of a group.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xmodal.runs.checkpoints.state_files import (
    Part,
    equal_parts,
    optimizer_file,
    read_model_file,
    read_optimizer_file,
)
from xmodal.runs.run import read_state

# Of a parameter, the fp32 weights that its optimiser steps; a key of pieces beside those of states.
MASTER = "master"
# Of each parameter, what its optimiser knows of it by name, as pieces in the order of the ranks.
Pieces = Mapping[str, Mapping[str, list[Any]]]


@torch.no_grad()
def load_optimizer(engine: Any, folder: Path) -> None:
    """Load the optimiser's state, saved by another number of ranks, into an engine.

    The engine has the ZeRO stage of the checkpoint, 1 to 3, and its weights already: those that the
    model computes with. The optimiser's own may be more precise.
    """
    from xmodal.runs.deepspeed_shares import optimizer_shares

    _take_counters(engine.optimizer.param_groups, _base_state(folder, 0)["param_groups"])
    pieces = saved_pieces(folder)
    for flat, state, parts in optimizer_shares(engine, writes=True):
        for part in parts:
            for key, saved in pieces[part.name].items():
                if not _is_shared_out(saved[0]):
                    # Adam's count of steps. A copy for each tensor: it counts in place.
                    state[key] = deepcopy(saved[0])
                    continue
                mine = torch.cat(saved)[part.begins : part.begins + part.numel]
                is_master = key == MASTER
                buffer = flat if is_master else state.setdefault(key, torch.zeros_like(flat))
                buffer[part.start : part.start + part.numel] = mine


def saved_pieces(folder: Path) -> Pieces:
    """Return what the optimisers of a checkpoint know, memory-mapped: what is used is read."""
    pieces: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    ranks = read_state(folder)["ranks"]
    for number in range(ranks):
        for parts, state in _shares_of_file(folder, number, ranks):
            for part in parts:
                for key, value in state.items():
                    share = slice(part.start, part.start + part.numel)
                    mine = value[share] if _is_shared_out(value) else value
                    pieces[part.name][key].append(mine)
    return pieces


def _is_shared_out(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0


def _take_counters(groups: Sequence[dict[str, Any]], saved: Sequence[Mapping[str, Any]]) -> None:
    """Take what an optimiser has added to its groups, such as timm's Adan its count of steps."""
    for group, theirs in zip(groups, saved, strict=True):
        group.update({key: deepcopy(value) for key, value in theirs.items() if key not in group})


def _shares_of_file(
    folder: Path, number: int, ranks: int
) -> Iterator[tuple[list[Part], dict[str, Any]]]:
    """Yield each group's parts on a rank, and the flat tensors of its weights and state by name."""
    saved, states = _saved(folder, number), _base_state(folder, number)["state"]
    if "param_slice_mappings" in saved:  # ZeRO 1 and 2
        flats = saved["single_partition_of_fp32_groups"]
        for group, mapping in enumerate(saved["param_slice_mappings"]):
            parts = [Part(name, place.start, 0, place.numel) for name, place in mapping.items()]
            yield parts, {MASTER: flats[group], **states.get(group, {})}
        return
    shapes = read_model_file(_model_file(folder, number))["param_shapes"]
    for group, one in enumerate(shapes):
        sizes = {name: shape.numel() for name, shape in one.items()}
        state = {MASTER: saved["fp32_flat_groups"][group], **states.get(group, {})}
        yield list(equal_parts(sizes, number, ranks)), state


def _base_state(folder: Path, number: int) -> dict[str, Any]:
    """Return the state that PyTorch's optimiser of a rank had."""
    saved = _saved(folder, number)
    state: dict[str, Any] = saved.get("base_optimizer_state") or saved["optimizer_state_dict"]
    return state


def _saved(folder: Path, number: int) -> dict[str, Any]:
    saved: dict[str, Any] = read_optimizer_file(optimizer_file(folder, number))
    return saved["optimizer_state_dict"]


def _model_file(folder: Path, number: int) -> Path:
    return folder / f"zero_pp_rank_{number}_mp_rank_00_model_states.pt"
