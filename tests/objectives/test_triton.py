"""Triton's kernels, interpreted where there is no GPU and compiled where there is one."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.objectives import info_nce_cases
from tests.objectives.equivalence import (
    Case,
    Inputs,
    Result,
    assert_equal,
    differentiate,
    in_single,
    on_cpu,
    share_of_batches,
)
from xmodal.objectives.pairwise import log_sum_exp
from xmodal.objectives.pairwise.tiles import Tiles

pytest.importorskip("triton")


def interpreted(folder: Path, function: Callable[..., Any], *arguments: Any) -> Any:
    torch.save((function, arguments), folder / "call.pt")
    command = [sys.executable, "-m", "tests.objectives.interpret", "call.pt", "result.pt"]
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "result.pt", weights_only=False)


@pytest.mark.parametrize("case", info_nce_cases.CASES[:1], ids=lambda case: case.name)
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


def expanded(inputs: Inputs) -> list[Result]:
    """Gradients that are one number for all, and inputs whose numbers are not side by side."""
    scale = torch.tensor([3.0]).double()

    def of_sums(module: Any, inputs: Inputs) -> torch.Tensor:
        rows, columns = log_sum_exp(
            inputs["x"].T, inputs["y"].T, (inputs["row_ids"], inputs["ids"]), scale=scale, tile=96
        )
        return rows.sum() + columns.sum()

    def of_rows(module: Any, inputs: Inputs) -> torch.Tensor:
        ids = inputs["row_ids"][:, None].expand(-1, 2)[:, 1], inputs["ids"]
        rows, _ = log_sum_exp(inputs["x"].T, inputs["y"].T, ids, scale=scale)
        return rows.mean()

    both = torch.stack([inputs["ids"], inputs["ids"]], 1)
    turned = {
        "x": inputs["x"].T,
        "y": inputs["y"].T,
        "ids": both[:, 1],
        "row_ids": inputs["row_ids"],
    }
    return [differentiate(each, torch.nn.Module(), turned) for each in (of_sums, of_rows)]


def test_interpreted_it_reads_no_gradient_that_is_expanded_out_of_bounds(tmp_path: Path) -> None:
    inputs = many_blocks(33)
    pairs = zip(interpreted(tmp_path, expanded, inputs), expanded(inputs), strict=True)
    for got, expected in pairs:
        assert_equal(got, expected, where="expanded")


def scaled_sums(x: torch.Tensor, y: torch.Tensor, precision: str) -> list[torch.Tensor]:
    torch.set_float32_matmul_precision(precision)
    return [each.double() for each in log_sum_exp(x, y, scale=torch.tensor([20.0]))]


def by_formula(x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
    scores = 20 * x.double() @ y.double().T
    return [scores.logsumexp(1), scores.logsumexp(0)]


def near_pairs(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.nn.functional.normalize(torch.randn(131, 33, generator=generator))
    return x.to(dtype), (x + 0.01).to(dtype)


def test_interpreted_tf32_is_rounded_and_not_cut_off(tmp_path: Path) -> None:
    x, y = near_pairs(torch.float32)
    rounded = [((side.view(torch.int32) + 0x1000) & -0x2000).view(torch.float32) for side in (x, y)]
    found = interpreted(tmp_path, scaled_sums, x, y, "high")
    for ours, expected, cut in zip(found, by_formula(*rounded), by_formula(x, y), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-5)
        assert (ours - cut).abs().max() > 1e-4
        # What is rounded is off to both sides.
        assert abs((ours - cut).mean()) < 0.5 * (ours - cut).abs().mean()


def test_bf16_is_not_rounded_once_more_by_its_scale() -> None:
    from xmodal.objectives.pairwise import triton_tiles

    x, y = near_pairs(torch.bfloat16)
    tiles = Tiles(x, y, None, 64, torch.tensor([1 / 0.07]))
    rows, columns, scale, *_ = triton_tiles._operands(tiles, slice(64, 128), slice(0, 64))
    assert torch.equal(rows, x[64:128])
    assert torch.equal(columns, y[:64])
    assert (scale.dtype, scale.item()) == (torch.float32, pytest.approx(1 / 0.07))


@pytest.mark.gpu
@pytest.mark.parametrize("width", [1, 33, 64, 512, 1000])
def test_compiled_it_equals_plain_tiles(width: int) -> None:
    inputs = many_blocks(width)
    got = on_cpu(both(in_single(inputs)))
    assert_equal(got, both(inputs), where=f"width {width}", tolerance=1e-5)
