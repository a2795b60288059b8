"""Loading a run's state through DeepSpeed."""

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
    """Return the progress of a run's newest checkpoint; that of step 0 if there is none."""
    checkpoint = run.latest()
    if checkpoint is None:
        return Progress()
    state = read_state(checkpoint)
    state = {key: state[key] for key in state if key not in ("ranks", "start")}
    if "left_out" in state:  # the old name
        state["skipped"] = state.pop("left_out")  # the old name
    return Progress(**state)


def needs_resharding(folder: Path, zero: int, *, on_disks: bool) -> bool:
    """Return True if a checkpoint's optimiser is partitioned for another number of ranks, or its
    state goes to disks, where DeepSpeed would not put it.
    """
    return on_disks or (bool(zero) and read_state(folder)["ranks"] != world_size())


def load_checkpoint(engine: Any, folder: Path) -> None:
    """Load a checkpoint into the engine of the same stage.

    If it needs resharding, load the optimiser only: the engine must have the weights already.
    """
    from xmodal.runs.deepspeed_adapter import is_on_disks

    zero = engine.zero_optimization_stage()
    if needs_resharding(folder, zero, on_disks=is_on_disks(engine)):
        load_optimizer(engine, folder)
    else:
        _load_by_deepspeed(engine, folder)
    place_counters(engine)


def _load_by_deepspeed(engine: Any, folder: Path) -> None:
    # What the optimiser has seen is the checkpoint's; what it is to do (decay) is the recipe's.
    options = [{**group, "params": None} for group in engine.optimizer.param_groups]
    engine.load_checkpoint(str(folder.parent), tag=folder.name)
    for group, recipe in zip(engine.optimizer.param_groups, options, strict=True):
        group.update(recipe, params=group["params"])


def place_counters(engine: Any) -> None:
    """Have a fused optimiser's counts of steps on the device of what it steps: it reads them there,
    and files, or runs without it, have them on the CPU.
    """
    from xmodal.runs.deepspeed_shares import optimizer_shares

    if any(group.get("fused") for group in engine.optimizer.param_groups):
        for tensor, state, _ in optimizer_shares(engine):
            if isinstance(state.get("step"), Tensor):
                state["step"] = state["step"].to(tensor.device)


def load_weights(method: nn.Module, folder: Path, zero: int) -> None:
    """Load a checkpoint's full weights into a method in one process, as evaluation does.

    Raises `UserError` if they do not fit the method.
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
    """Return a checkpoint's full weights by their names in the method.

    Raises `UserError` if its files are missing, hold something else, or would execute code.
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
