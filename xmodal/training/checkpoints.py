"""Reading a run's state through DeepSpeed."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.distributed.collectives import world_size
from xmodal.errors import UserError
from xmodal.training.elastic import load_optimizer
from xmodal.training.progress import Progress
from xmodal.training.run import Run, read_state


def read_progress(run: Run) -> Progress:
    """Return where a run's newest checkpoint stands; the beginning where there is none."""
    checkpoint = run.latest()
    if checkpoint is None:
        return Progress()
    state = read_state(checkpoint)
    return Progress(**{key: state[key] for key in state if key not in ("ranks", "start")})


def is_cut_for_others(folder: Path, zero: int) -> bool:
    """Tell whether a checkpoint's optimiser is shared out to another number of ranks than these."""
    return bool(zero) and read_state(folder)["ranks"] != world_size()


def load_checkpoint(engine: Any, folder: Path) -> None:
    """Read a checkpoint into the engine of the same stage.

    Where it is cut for other ranks, the optimiser alone: the weights have to be there already.
    """
    if is_cut_for_others(folder, engine.zero_optimization_stage()):
        load_optimizer(engine, folder)
        return
    # What the optimiser has seen is the checkpoint's; what it is to do (decay) is the recipe's.
    options = [{**group, "params": None} for group in engine.optimizer.param_groups]
    engine.load_checkpoint(str(folder.parent), tag=folder.name)
    for group, recipe in zip(engine.optimizer.param_groups, options, strict=True):
        group.update(recipe, params=group["params"])


def load_weights(method: nn.Module, folder: Path, zero: int) -> None:
    """Read a checkpoint's whole weights into a method in one process, as evaluation does."""
    method.load_state_dict(read_weights(folder, zero))


def read_weights(folder: Path, zero: int) -> dict[str, Tensor]:
    """Return a checkpoint's whole weights by their names in the method."""
    return _partitioned(folder) if zero == 3 else _whole(folder)


def _whole(folder: Path) -> dict[str, Tensor]:
    path = folder / "mp_rank_00_model_states.pt"
    if not path.is_file():
        raise UserError(f"checkpoint {folder} is not whole: {path.name} is missing")
    weights: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=False)["module"]
    return weights


def _partitioned(folder: Path) -> dict[str, Tensor]:
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    weights: dict[str, Tensor] = get_fp32_state_dict_from_zero_checkpoint(
        str(folder.parent), tag=folder.name
    )
    return weights
