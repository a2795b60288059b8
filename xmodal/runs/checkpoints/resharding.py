"""Resharding of an optimiser's state for another number of ranks.

Under ZeRO each rank keeps a part of the optimiser's state, one flat tensor per group. Checkpoints
and engines both record which part of which parameter lies where: saved parts are assembled by the
parameters' names, and each rank takes its new share, without an intermediate file.

DeepSpeed's universal checkpoints cannot be used: they support Adam's two moments only (no momentum
of SGD, no third moment of AMSGrad), under ZeRO 3 they give every group the options of the first,
and they fail if a rank has no part of a group.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xmodal.runs.checkpoints.state_files import (
    Part,
    equal_parts,
    read_model_file,
    read_optimizer_file,
)
from xmodal.runs.run import read_state

# Of each parameter, what its optimiser knows of it by name, as pieces in the order of the ranks.
Pieces = Mapping[str, Mapping[str, list[Tensor]]]


def load_optimizer(engine: Any, folder: Path) -> None:
    """Load the optimiser's state, saved by another number of ranks, into an engine.

    The engine has the ZeRO stage of the checkpoint, 1 to 3, and its weights already.
    """
    from xmodal.runs.deepspeed_adapter import optimizer_shares

    pieces = _saved_pieces(folder)
    for flat, state, parts in optimizer_shares(engine):
        for part in parts:
            for key, saved in pieces[part.name].items():
                if not saved[0].dim():  # Adam's count of steps, which all have in common
                    state[key] = saved[0].clone()
                    continue
                mine = torch.cat(saved)[part.begins : part.begins + part.numel]
                buffer = state.setdefault(key, torch.zeros_like(flat))
                buffer[part.start : part.start + part.numel] = mine


def _saved_pieces(folder: Path) -> Pieces:
    """Memory-map a checkpoint's files: only the parts in use are read."""
    pieces: dict[str, dict[str, list[Tensor]]] = defaultdict(lambda: defaultdict(list))
    ranks = read_state(folder)["ranks"]
    for number in range(ranks):
        for parts, state in _shares_of_file(folder, number, ranks):
            for part in parts:
                for key, value in state.items():
                    mine = value[part.start : part.start + part.numel] if value.dim() else value
                    pieces[part.name][key].append(mine)
    return pieces


def _shares_of_file(
    folder: Path, number: int, ranks: int
) -> Iterator[tuple[list[Part], dict[str, Tensor]]]:
    """Yield each group's parts on a rank, and the flat tensors of its state by name."""
    file = f"zero_pp_rank_{number}_mp_rank_00"
    saved = read_optimizer_file(folder / f"{file}_optim_states.pt")["optimizer_state_dict"]
    if "param_slice_mappings" in saved:  # ZeRO 1 and 2
        states = saved["base_optimizer_state"]["state"]
        for group, mapping in enumerate(saved["param_slice_mappings"]):
            parts = [Part(name, place.start, 0, place.numel) for name, place in mapping.items()]
            yield parts, states.get(group, {})
        return
    states = saved["optimizer_state_dict"]["state"]
    shapes = read_model_file(folder / f"{file}_model_states.pt")["param_shapes"]
    for group, one in enumerate(shapes):
        sizes = {name: shape.numel() for name, shape in one.items()}
        yield list(equal_parts(sizes, number, ranks)), states.get(group, {})
