"""Options that the engine cannot fulfil are one line, before training."""

from pathlib import Path

import pytest
import torch

from tests.recipes import SIZE, recipe_of
from xmodal.assembly.build import first_method
from xmodal.assembly.checks import check_sizes
from xmodal.assembly.engine_checks import check_disks, check_precision
from xmodal.errors import UserError

BF16 = {"training__zero": {"stage": 2}, "training__precision": "bf16_weights"}


def test_a_second_partition_has_as_many_ranks_each_time(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, training__zero={"stage": 3, "secondary_partition": 3})
    check_sizes(recipe_of(tmp_path, training__zero={"stage": 3}), 4)
    with pytest.raises(UserError, match=r"=3 does not divide 4 ranks; nearest: 2 or 4$"):
        check_sizes(recipe, 4)


def test_layers_of_float32_take_no_bf16_weights(tmp_path: Path) -> None:
    gru = {"kind": "gru", "word": 8, "width": 8}
    vit = {"kind": "timm", "name": "test_vit", "size": SIZE}
    for changes, name in (
        ({}, "conv1.1 "),
        ({"method__image": vit, "method__text": gru}, "states "),
    ):
        recipe = recipe_of(tmp_path, **BF16, **changes)
        with pytest.raises(UserError, match=rf"bf16_weights: \S*{name}\(\w+\) computes in float32"):
            check_precision(recipe, first_method(recipe, torch.device("cpu")))
    recipe = recipe_of(tmp_path, **BF16, method__image=vit)
    check_precision(recipe, first_method(recipe, torch.device("cpu")))


def test_weights_lie_in_a_folder_that_is_there(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    offload = {"device": "nvme", "path": str(folder)}
    recipe = recipe_of(tmp_path, training__zero={"stage": 3, "offload_parameters": offload})
    with pytest.raises(UserError, match=r"zero.offload_parameters.path=\S+disk is no folder here"):
        check_disks(recipe)
    folder.mkdir()
    check_disks(recipe)
    assert [one.name for one in folder.iterdir()] == ["xmodal-state-lock"]
