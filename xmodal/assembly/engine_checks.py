"""Checks that a recipe's ranks and method fit what its engine is asked for."""

from pathlib import Path

from torch import nn

from xmodal.activity import activity
from xmodal.assembly.recipe import Recipe
from xmodal.data.config import nearest_divisors
from xmodal.errors import UserError
from xmodal.methods.method import Method
from xmodal.runs.local_folder import LocalFolder
from xmodal.training.state_on_disks import KEY


def check_partition(recipe: Recipe, ranks: int) -> None:
    """Raise `UserError` where the ranks are not so many whole groups of ZeRO's second partition."""
    group = recipe.training.zero.secondary_partition
    if ranks % group:
        raise UserError(
            f"training.zero.secondary_partition={group} does not divide {ranks} ranks; nearest: "
            + nearest_divisors(ranks, group)
        )


def check_disks(recipe: Recipe) -> None:
    """Raise `UserError` where state cannot lie on this node's disks."""
    disks = recipe.training.zero.disks
    for option, disk in disks.items():
        key = KEY.format(option)
        if not Path(disk).is_dir():
            raise UserError(f"{key}={disk} is no folder here; make it on a local disk of each node")
        LocalFolder(Path(disk), 0, key).close()
    if recipe.training.zero.from_disk:
        from xmodal.runs.deepspeed_adapter import load_disk_library

        with activity("loading what reads and writes disks"):
            load_disk_library()


def check_precision(recipe: Recipe, method: Method) -> None:
    """Raise `UserError` for bf16 weights of layers that compute in float32."""
    if recipe.training.precision != "bf16_weights":
        return
    for name, module in method.named_modules():
        if isinstance(module, nn.RNNBase | nn.modules.batchnorm._BatchNorm):
            raise UserError(
                f"training.precision=bf16_weights: {name} ({type(module).__name__}) computes in "
                "float32, by float32 weights; use training.precision=bf16"
            )
