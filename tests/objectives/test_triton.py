"""Triton's kernel, interpreted where there is no GPU and compiled where there is one."""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.objectives.equivalence import Case, Result, differentiate, in_single, on_cpu
from tests.objectives.test_equivalence import CASES
from xmodal.objectives.pairwise import cells, hardest, log_sum_exp, pair_sum, total_log_sum_exp
from xmodal.objectives.pairwise.tiles import Tiles

pytest.importorskip("triton")

UNIT = torch.finfo(torch.float32).eps / 2


def interpreted(folder: Path, function: Callable[..., Any], *arguments: Any) -> Any:
    torch.save((function, arguments), folder / "call.pt")
    command = [sys.executable, "-m", "tests.objectives.interpret", "call.pt", "result.pt"]
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "result.pt", weights_only=False)


# Objectives on small batches, tiles of a few rows: against their formula.


def shares_in_single(cases: list[Case], names: list[str] | None) -> dict[tuple[str, str], Result]:
    """Return the results of batches of cases in single precision."""
    return {
        (case.name, name): on_cpu(
            differentiate(case.share, case.module().float(), in_single(inputs, "cpu"))
        )
        for case in cases
        for name, inputs in case.batches.items()
        if names is None or name in names
    }


def assert_as_exact_as_plain(cases: list[Case], names: list[str] | None, folder: Path) -> None:
    """Check the kernel's results against float64: off as plain PyTorch's in float32, times 16."""
    got = interpreted(folder, shares_in_single, cases, names)
    plain = shares_in_single(cases, names)
    assert got
    for case in cases:
        for name in names or case.batches:
            expected = differentiate(case.naive, case.module(), case.batches[name])
            results = got[case.name, name], plain[case.name, name], expected
            for key, (ours, single, exact) in by_name(*results).items():
                if not single.isfinite().all():
                    continue
                largest = 1 + exact.abs().max()
                allowed = 16 * (single - exact).abs().max() + 64 * UNIT * largest
                assert (ours - exact).abs().max() <= allowed, f"{case.name}, {name}: {key}"


def by_name(*results: Result) -> dict[str, tuple[Tensor, ...]]:
    keys = results[0].gradients
    values = {key: tuple(result.gradients[key] for result in results) for key in keys}
    return values | {"value": tuple(result.value for result in results)}


ONE_A_FAMILY = (
    "info_nce, many positives",
    "info_nce, extra: queue",
    "sigmoid",
    "margin of 1.7",
    "triplet, sum",
    "triplet, semi-hard",
    "mutual information, jsd",
    "mutual information, dv",
    "mutual information, nwj",
)
ON_PAIRS = (
    "info_nce",
    "sigmoid",
    "margin",
    "triplet",
    "batch class",
    "mutual",
    "encode",
    "concat",
    "maximum",
)


def test_interpreted_objectives_equal_their_formulas(tmp_path: Path) -> None:
    cases = [case for case in CASES if case.name in ONE_A_FAMILY]
    assert len(cases) == len(ONE_A_FAMILY)
    assert_as_exact_as_plain(cases, ["an image twice", "scores of 100"], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", [case for case in CASES if case.name.startswith(ON_PAIRS)], ids=lambda case: case.name
)
def test_every_interpreted_objective_equals_its_formula(case: Case, tmp_path: Path) -> None:
    assert_as_exact_as_plain([case], None, tmp_path)


# Functions of the engine on several blocks, the last cut short: against plain tiles in float64.


class Inputs:
    """Sides of several blocks that bfloat16 holds, whose ids repeat."""

    def __init__(self, rows: int = 131, columns: int = 170, width: int = 40) -> None:
        generator = torch.Generator().manual_seed(width)
        self.x, self.y = (
            (torch.randn(n, width, generator=generator) / width**0.5).bfloat16().double()
            for n in (rows, columns)
        )
        self.ids = torch.arange(rows) % 100, torch.arange(columns) % 90
        self.weights = torch.randn(rows, generator=generator).double()
        self.offsets = [torch.randn(n, generator=generator).double() for n in (rows, columns)]


def sums(x: Tensor, y: Tensor, scale: Tensor, given: Inputs) -> Tensor:
    rows, columns = log_sum_exp(x, y, given.ids, scale=scale, tile=96)
    return (finite(rows) * given.weights.to(rows)).sum() + columns.exp().sum()


def finite(values: Tensor) -> Tensor:
    """Return 0 of what has no negatives."""
    return values.masked_fill(values.isneginf(), 0)


def expanded(x: Tensor, y: Tensor, scale: Tensor, given: Inputs) -> Tensor:
    """Gradients that are one number for all, with strides of 0."""
    rows, columns = log_sum_exp(x, y, scale=scale, tile=96)
    return rows.sum() + columns.mean()


def one_side(x: Tensor, y: Tensor, scale: Tensor, given: Inputs) -> Tensor:
    return log_sum_exp(x, y, scale=scale)[0].sum()


def far_apart(x: Tensor, y: Tensor, scale: Tensor, given: Inputs) -> Tensor:
    """Scores of which one exponential does not serve all."""
    sizes = torch.linspace(-2, 6, len(x)).round().exp2().to(x)[:, None]
    rows, columns = log_sum_exp(x * sizes, y, given.ids, scale=scale, tile=96)
    return (finite(rows) * given.weights.to(rows)).sum() + finite(columns).sum()


def turned(x: Tensor, y: Tensor, scale: Tensor, given: Inputs) -> Tensor:
    """Sides whose numbers do not lie side by side."""
    x, y = (side.T.contiguous().T for side in (x, y))
    return sums(x, y, scale, given)


def without_negatives(x: Tensor, y: Tensor, scale: Tensor, given: Inputs) -> Tensor:
    """Rows and columns of nothing but −∞."""
    ids = torch.zeros(len(x), dtype=torch.int64), torch.zeros(len(y), dtype=torch.int64)
    ids[0][::7] = 1
    ids[1][3:5] = 2
    rows, columns = log_sum_exp(x, y, ids, scale=scale, tile=96)
    return rows.exp().sum() + columns.exp().sum()


def total(x: Tensor, y: Tensor, scale: Tensor, given: Inputs) -> Tensor:
    return total_log_sum_exp(x, y, given.ids, tile=96) * scale


def summed(
    function: cells.CellFunction, x: Tensor, y: Tensor, scale: Tensor, given: Inputs
) -> Tensor:
    a, b = (offset.to(scale) for offset in given.offsets)
    return pair_sum(function, x, y, given.ids, scale=scale, row_offset=a, column_offset=b, tile=96)


def of_distances(
    function: cells.CellFunction, x: Tensor, y: Tensor, scale: Tensor, given: Inputs
) -> Tensor:
    squares = (side.to(scale).square().sum(1) for side in (x, y))
    a, b = squares
    return pair_sum(function, x, y, given.ids, row_offset=a, column_offset=b, tile=96) * scale


FUNCTIONS: dict[str, Any] = {
    **{one.__name__: one for one in (sums, expanded, one_side, far_apart, turned)},
    **{one.__name__: one for one in (without_negatives, total)},
    "softplus": partial(summed, cells.softplus),
    "softplus with offset": partial(summed, cells.softplus_with_offset),
    "exp less one": partial(summed, cells.exp_less_one),
    "hinges": partial(summed, cells.hinges),
    "distance hinges": partial(of_distances, partial(cells.distance_hinges, margin=1.3)),
    "laplacian": partial(of_distances, partial(cells.laplacian, gamma=0.5)),
}
SHAPES = {
    "ragged": Inputs(),
    "one column": Inputs(70, 1, 33),
    "one row": Inputs(1, 70, 16),
    "width of 1": Inputs(40, 50, 1),
}


ON_EVERY_SHAPE = ("without_negatives", "softplus with offset", "distance hinges")


def gradients_of(dtype: torch.dtype) -> dict[tuple[str, str], list[Tensor]]:
    """Return functions' values and gradients by x, y and scale."""
    return {
        (name, shape): differentiated(function, given, dtype)
        for name, function in FUNCTIONS.items()
        for shape, given in SHAPES.items()
        if shape == "ragged" or name in ON_EVERY_SHAPE
    }


def differentiated(function: Any, given: Inputs, dtype: torch.dtype) -> list[Tensor]:
    x, y = (side.to(dtype, copy=True).requires_grad_() for side in (given.x, given.y))
    precise = torch.promote_types(dtype, torch.float32)
    scale = torch.tensor([2.0], dtype=precise, requires_grad=True)
    value = function(x, y, scale, given)
    value.sum().backward()
    return [each.detach().double() for each in (value, x.grad, y.grad, scale.grad)]


# bfloat16 rounds slopes and gradients, but no score: values are as exact as in float32.
TOLERANCES = {torch.float32: [1e-6, 5e-6, 5e-6, 1e-5], torch.bfloat16: [1e-6, 6e-2, 6e-2, 3e-2]}


@pytest.fixture(scope="module")
def found_by_kernel(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What one process finds: gradients by precision, places of the hardest, values of NaN."""
    return interpreted(tmp_path_factory.mktemp("triton"), all_results)


def all_results() -> tuple[Any, ...]:
    gradients = {dtype: gradients_of(dtype) for dtype in TOLERANCES}
    return gradients, all_found(), values_of_nan()


@pytest.mark.parametrize("dtype", TOLERANCES, ids=["float32", "bfloat16"])
def test_interpreted_functions_equal_plain_tiles(dtype: torch.dtype, found_by_kernel: Any) -> None:
    got, expected = found_by_kernel[0][dtype], gradients_of(torch.float64)
    for key, results in expected.items():
        assert_near(got[key], results, TOLERANCES[dtype], key)


def assert_near(
    got: list[Tensor], expected: list[Tensor], tolerances: list[float], where: object
) -> None:
    """Check value and gradients by x, y and scale, each to its tolerance."""
    for ours, exact, tolerance in zip(got, expected, tolerances, strict=True):
        assert (ours - exact).norm() <= tolerance * (exact.norm() + 0.1), where


def found(given: Inputs, *, whole: bool) -> list[Tensor]:
    """Hardest and semi-hard negatives, of scores that are often tied or of others."""
    x, y = (side.float() for side in (given.x, given.y))
    limits = [offset.float() for offset in given.offsets]
    if whole:
        x, y, limits = (2 * x).round(), (2 * y).round(), [one.round() for one in limits]
    below = limits[0], limits[1]
    results = [hardest(x, y, given.ids, first_row=7, tile=96, below=one) for one in (None, below)]
    return [side for one in results for side in (one.rows, one.columns)]


def all_found() -> dict[tuple[str, bool], list[Tensor]]:
    return {
        (name, whole): found(given, whole=whole)
        for name, given in SHAPES.items()
        for whole in (True, False)
    }


def test_interpreted_it_finds_the_first_of_the_greatest(found_by_kernel: Any) -> None:
    got = found_by_kernel[1]
    for key, results in all_found().items():
        for ours, expected in zip(got[key], results, strict=True):
            assert torch.equal(ours, expected), key


def values_of_nan() -> dict[str, Tensor]:
    given = Inputs()
    x, y, scale = given.x.float(), given.y.float(), torch.ones(1)
    x[7] = torch.nan
    return {name: function(x, y, scale, given) for name, function in FUNCTIONS.items()}


def test_interpreted_what_is_not_a_number_shows_in_the_value(found_by_kernel: Any) -> None:
    for name, value in found_by_kernel[2].items():
        assert value.isnan().all(), name


def near_pairs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = F.normalize(torch.randn(131, 33, generator=generator))
    return x, x + 0.01


def scaled_sums(x: Tensor, y: Tensor, *, tf32: bool) -> list[Tensor]:
    from xmodal.objectives.pairwise import triton_engine

    triton_engine.rounds_to_tf32 = lambda _: tf32
    return [each.double() for each in log_sum_exp(x, y, scale=torch.tensor([20.0]))]


def by_formula(x: Tensor, y: Tensor) -> list[Tensor]:
    scores = 20 * x.double() @ y.double().T
    return [scores.logsumexp(1), scores.logsumexp(0)]


def test_interpreted_tf32_is_rounded_and_not_cut_off(tmp_path: Path) -> None:
    x, y = near_pairs()
    rounded = [((side.view(torch.int32) + 0x1000) & -0x2000).view(torch.float32) for side in (x, y)]
    found = interpreted(tmp_path, partial(scaled_sums, tf32=True), x, y)
    for ours, expected, exact in zip(found, by_formula(*rounded), by_formula(x, y), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-5)
        assert (ours - exact).abs().max() > 1e-4
        # What is rounded is off to both sides.
        assert abs((ours - exact).mean()) < 0.5 * (ours - exact).abs().mean()


def held_by_tf32(values: Tensor) -> bool:
    return not (values.contiguous().view(torch.int32) & 0x1FFF).any()


def test_float32_is_three_products_of_what_tf32_holds() -> None:
    """As exact as float32, whether or not the hardware cuts off what TF32 does not hold."""
    from xmodal.objectives.pairwise import triton_engine

    x, y = torch.randn(2, 50, 40, generator=torch.Generator().manual_seed(0))
    three_x, three_y = triton_engine._multiplied(x, y)
    assert held_by_tf32(three_x)
    assert held_by_tf32(three_y)
    exact = x.double() @ y.double().T
    lengths = x.double().norm(dim=1)[:, None] * y.double().norm(dim=1)
    assert ((three_x.double() @ three_y.double().T - exact).abs() < 2 * UNIT * lengths).all()


def test_tf32_keeps_what_is_not_finite() -> None:
    from xmodal.objectives.pairwise import triton_engine

    values = torch.tensor([torch.inf, -torch.inf, torch.nan, 1.0, torch.finfo(torch.float32).max])
    got = triton_engine._tf32(values)
    assert got[:2].equal(values[:2])
    assert got[2].isnan()
    assert got[3] == 1


def test_bfloat16_is_not_rounded_once_more_by_its_scale() -> None:
    from xmodal.objectives.pairwise import triton_engine

    x, y = (side.bfloat16() for side in near_pairs())
    engine = triton_engine.TritonEngine(Tiles(x, y, None, 64, torch.tensor([1 / 0.07])))
    assert torch.equal(engine.x[:, :33], x)
    assert torch.equal(engine.y[:, :33], y)
    assert (engine.scale.dtype, engine.scale.item()) == (torch.float32, pytest.approx(1 / 0.07))
    engine = triton_engine.TritonEngine(Tiles(x, y, None, 64))
    assert (engine.scale.dtype, engine.scale.item()) == (torch.float32, 1)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TOLERANCES, ids=["float32", "bfloat16"])
def test_compiled_functions_equal_plain_tiles(dtype: torch.dtype) -> None:
    tolerances = [10 * tolerance for tolerance in TOLERANCES[dtype]]
    for (name, shape), results in gradients_of(torch.float64).items():
        with torch.device("cuda"):
            got = differentiated(FUNCTIONS[name], on_gpu(SHAPES[shape]), dtype)
        assert_near([each.cpu() for each in got], results, tolerances, (name, shape))


def on_gpu(given: Inputs) -> Inputs:
    moved = Inputs.__new__(Inputs)
    moved.x, moved.y, moved.weights = (one.cuda() for one in (given.x, given.y, given.weights))
    moved.ids = given.ids[0].cuda(), given.ids[1].cuda()
    moved.offsets = [offset.cuda() for offset in given.offsets]
    return moved
