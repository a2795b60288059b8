"""Reading of the checkpoint files that DeepSpeed writes.

They are pickles. Files of weights hold tensors and plain values; files of ZeRO's optimisers hold
three data types of DeepSpeed as well. They are read without DeepSpeed.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xmodal.tensor_files import load_tensors


def read_model_file(file: Path) -> Any:
    """Return the contents of a `*_model_states.pt`.

    Raises `UserError` if it is damaged or contains anything but data.
    """
    return load_tensors(file)


class _LossScaler(SimpleNamespace):
    """Substitute for DeepSpeed's type in a file; so are the next two."""


class _FragmentAddress(SimpleNamespace):
    start: int
    numel: int


class _ZeroStage(int):
    pass


_STAND_INS: list[tuple[type, str]] = [
    (_LossScaler, "deepspeed.runtime.fp16.loss_scaler.LossScaler"),
    (_FragmentAddress, "deepspeed.utils.tensor_fragment.fragment_address"),
    (_ZeroStage, "deepspeed.runtime.zero.config.ZeroStageEnum"),
]


def read_optimizer_file(file: Path) -> Any:
    """Return the contents of a `*_optim_states.pt`; raises as `read_model_file` does."""
    return load_tensors(file, types=_STAND_INS, mapped=True)


def optimizer_file(folder: Path, number: int) -> Path:
    """Return the file of a rank's optimiser; DeepSpeed marks those of runs with bf16 weights."""
    name = f"zero_pp_rank_{number}_mp_rank_00_optim_states.pt"
    marked = folder / f"bf16_{name}"
    return marked if marked.is_file() else folder / name


class Part(NamedTuple):
    """Part of a parameter on a rank: its start in the rank's flat tensor and in the parameter, and
    its number of elements.
    """

    name: str
    start: int
    begins: int
    numel: int


def read_partitioned_weights(folder: Path, ranks: int) -> dict[str, Tensor]:
    """Return the full weights of a ZeRO 3 checkpoint by name, in single precision."""
    files = [f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt" for rank in range(ranks)]
    models = [read_model_file(folder / file) for file in files]
    optimizers = [read_optimizer_file(optimizer_file(folder, rank)) for rank in range(ranks)]
    first = models[0]
    weights = {
        name: buffer.float() if buffer.is_floating_point() else buffer
        for name, buffer in first["module"].items()
        if name in first["buffer_names"]
    }
    for name, shape in (first["frozen_param_shapes"] or {}).items():  # in no optimiser
        weights[name] = _joined([model["frozen_param_fragments"][name] for model in models], shape)
    groups = [saved["optimizer_state_dict"]["fp32_flat_groups"] for saved in optimizers]
    for group, shapes in enumerate(first["param_shapes"]):
        flats = [one[group] for one in groups]
        sizes = {name: shape.numel() for name, shape in shapes.items()}
        for name, start, size in equal_shares(sizes, ranks):
            weights[name] = _joined([flat[start : start + size] for flat in flats], shapes[name])
    # A weight that two modules share lies in the files under the first of its names.
    return weights | {name: weights[other] for name, other in first["shared_params"].items()}


def equal_shares(sizes: Mapping[str, int], ranks: int) -> Iterator[tuple[str, int, int]]:
    """Yield (name, start, size) of each parameter's share in a rank's flat tensor of a group, as
    ZeRO 3 cuts them: every rank has as many numbers of it, filled up for the last ones.
    """
    start = 0
    for name, numel in sizes.items():
        size = -(-numel // ranks)
        yield name, start, size
        start += size


def equal_parts(sizes: Mapping[str, int], number: int, ranks: int) -> Iterator[Part]:
    """Yield a rank's parts as ZeRO 3 cuts them, without what fills them up."""
    for name, start, size in equal_shares(sizes, ranks):
        begins = min(number * size, sizes[name])
        yield Part(name, start, begins, min(size, sizes[name] - begins))


def _joined(shares: list[Tensor], shape: torch.Size) -> Tensor:
    return torch.cat([share.flatten() for share in shares])[: shape.numel()].view(shape)
