"""Reading a run's state through DeepSpeed."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from xmodal.distributed.collectives import world_size
from xmodal.errors import UserError
from xmodal.runs.checkpoints.resharding import load_optimizer
from xmodal.runs.checkpoints.state_files import read_model_file, read_partitioned_weights
from xmodal.runs.progress import Progress
from xmodal.runs.run import Run, read_state


def read_progress(run: Run) -> Progress:
    """Return where a run's newest checkpoint stands; the beginning where there is none."""
    checkpoint = run.latest()
    if checkpoint is None:
        return Progress()
    state = read_state(checkpoint)
    return Progress(**{key: state[key] for key in state if key not in ("ranks", "start")})


def needs_resharding(folder: Path, zero: int) -> bool:
    """Tell whether a checkpoint's optimiser is shared out to another number of ranks than these."""
    return bool(zero) and read_state(folder)["ranks"] != world_size()


def load_checkpoint(engine: Any, folder: Path) -> None:
    """Read a checkpoint into the engine of the same stage.

    Where it is cut for other ranks, the optimiser alone: the weights have to be there already.
    """
    if needs_resharding(folder, engine.zero_optimization_stage()):
        load_optimizer(engine, folder)
        return
    # What the optimiser has seen is the checkpoint's; what it is to do (decay) is the recipe's.
    options = [{**group, "params": None} for group in engine.optimizer.param_groups]
    engine.load_checkpoint(str(folder.parent), tag=folder.name)
    for group, recipe in zip(engine.optimizer.param_groups, options, strict=True):
        group.update(recipe, params=group["params"])


def load_weights(method: nn.Module, folder: Path, zero: int) -> None:
    """Read a checkpoint's whole weights into a method in one process, as evaluation does.

    Raises `UserError` where they are not those of the method.
    """
    weights = read_weights(folder, zero)
    try:
        method.load_state_dict(weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(
            f"checkpoint {folder} does not fit its recipe: {reason}; restore the recipe.yaml "
            "that it was trained by"
        ) from None


def read_weights(folder: Path, zero: int) -> dict[str, Tensor]:
    """Return a checkpoint's whole weights by their names in the method.

    Raises `UserError` where its files are missing, hold something else, or would execute code.
    """
    try:
        if zero == 3:
            return read_partitioned_weights(folder, read_state(folder)["ranks"])
        return dict(read_model_file(folder / "mp_rank_00_model_states.pt")["module"])
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise UserError(
            f"checkpoint {folder} does not hold the weights of ZeRO {zero}; name "
            "another one, or restore it"
        ) from error
