"""An optimiser's state, saved on some number of ranks, cut anew for another.

Under ZeRO each rank keeps a part of the parameters' state, one flat tensor a group. Checkpoints say
which part of which parameter lies where, and so does an engine: what is saved is put together by
the parameters' names, and each rank takes what is now its own, without a file in between.

DeepSpeed's universal checkpoints do not serve here: they know Adam's two moments alone (no momentum
of SGD, no third moment of AMSGrad), under ZeRO 3 they give every group the options of the first,
and they fail where a rank has no part of a group.
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
    """Read the optimiser's state of a checkpoint of other ranks into an engine of the same stage.

    The engine's ZeRO stage is that of the checkpoint, 1 to 3, and has its weights already.
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
    """Map a checkpoint's files to memory: only what is used of them is read."""
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
