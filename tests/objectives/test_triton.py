"""Triton's kernels, interpreted where there is no GPU and compiled where there is one."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.objectives import contrastive_cases
from tests.objectives.equivalence import (
    Case,
    Inputs,
    Result,
    assert_equal,
    differentiate,
    on_cpu,
    on_gpu,
    share_of_batches,
)
from xmodal.objectives.pairwise import log_sum_exp

pytest.importorskip("triton")


def interpreted(folder: Path, function: Callable[..., Any], *arguments: Any) -> Any:
    torch.save((function, arguments), folder / "call.pt")
    command = [sys.executable, "-m", "tests.objectives.interpret", "call.pt", "result.pt"]
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "result.pt", weights_only=False)


@pytest.mark.parametrize("case", contrastive_cases.CASES[:1], ids=lambda case: case.name)
def test_interpreted_it_equals_the_formula(case: Case, tmp_path: Path) -> None:
    for name, got in interpreted(tmp_path, share_of_batches, case, [24]).items():
        expected = differentiate(case.naive, case.module(), case.batches[name])
        assert_equal(got, expected, where=f"{case.name}, {name}")


def statistics(module: Any, inputs: Inputs) -> torch.Tensor:
    rows, columns = log_sum_exp(inputs["x"], inputs["y"], (inputs["row_ids"], inputs["ids"]))
    return (rows.exp() * inputs["row_weights"]).sum() + columns.exp().sum()


def many_blocks(width: int) -> Inputs:
    """Several blocks of rows and columns, the last ones cut short, of any width."""
    generator = torch.Generator().manual_seed(width)
    x, y = (torch.randn(n, width, generator=generator).double() / width for n in (131, 270))
    weights = torch.randn(131, generator=generator).double()
    ids = torch.arange(270) % 200
    return {"x": x, "y": y, "ids": ids, "row_ids": ids[5:136], "row_weights": weights}


def both(inputs: Inputs) -> Result:
    return differentiate(statistics, torch.nn.Module(), inputs)


@pytest.mark.parametrize("width", [1, 33, 64])
def test_interpreted_it_equals_plain_tiles(width: int, tmp_path: Path) -> None:
    inputs = many_blocks(width)
    assert_equal(interpreted(tmp_path, both, inputs), both(inputs), where=f"width {width}")


@pytest.mark.gpu
@pytest.mark.parametrize("width", [1, 33, 64, 512, 1000])
def test_compiled_it_equals_plain_tiles(width: int) -> None:
    inputs = many_blocks(width)
    got = on_cpu(both(on_gpu(inputs)))
    assert_equal(got, both(inputs), where=f"width {width}", tolerance=1e-5)
