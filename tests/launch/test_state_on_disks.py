"""The optimiser's state on a local disk: runs are those in memory, and resume everywhere."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.launch.test_elastic import assert_close, go_on
from tests.launch.test_engine_options import trained
from tests.run_folders import weights

pytestmark = pytest.mark.slow

# Groups over a megabyte lie on the disk. Biases and 301 put gradients at odd places of a group.
LARGE = ["method.text.width=202", "method.embedding=301", "stages.0.ema={decay: 0.9}"]


def on_disks(folder: Path, size: int = 10**9) -> str:
    folder.mkdir(exist_ok=True)
    offload = f"offload_optimizer: {{device: nvme, path: {folder}}}"
    return f"training.zero={{stage: 3, sub_group_size: {size}, {offload}}}"


@pytest.mark.parametrize("size", [10**9, 300_000])
def test_a_run_is_the_one_in_memory(recipe: Path, tmp_path: Path, size: int) -> None:
    words: list[Any] = [recipe, *LARGE, "data.micro_batch_size=8"]
    plain = trained(tmp_path / "plain", *words, "training.zero=3", every=8)
    folder, disk = tmp_path / "run", tmp_path / "disk"
    go_on(folder, *words, on_disks(disk, size), ranks=(2, 2, 1), every=8)
    assert assert_close(folder, plain) < 1e-5
    mine, others = weights(folder, 24, 3), weights(plain, 24, 3)
    for name, value in others.items():
        torch.testing.assert_close(mine[name], value, rtol=1e-3, atol=1e-4)
    assert not list(disk.glob("xmodal-state-*/"))
