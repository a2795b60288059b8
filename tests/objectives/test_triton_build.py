"""The kernel compiled for GPUs that need not be there: instructions, memory, registers, spills."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from xmodal.objectives.pairwise import cells
from xmodal.objectives.pairwise.tiles import Tiles

pytest.importorskip("triton")

from triton import knobs

from xmodal.objectives.pairwise import triton_build, triton_engine, triton_launch
from xmodal.objectives.pairwise.triton_engine import (
    FAMILIES,
    GREATEST_BELOW,
    SLOPES,
    STATISTICS,
    Family,
)

KIB = 1024
# Bytes of shared memory a block may have, of all chips of a generation.
SHARED = {80: 99 * KIB, 90: 227 * KIB, 100: 227 * KIB}
# What multiplies on tensor cores, of bfloat16 and of TF32.
INSTRUCTIONS = {
    80: (r"mma\.sync\.\S+\.bf16\.bf16", r"mma\.sync\.\S+\.tf32\.tf32"),
    90: (r"wgmma\.mma_async\S+\.bf16\.bf16", r"wgmma\.mma_async\S+\.tf32\.tf32"),
    100: (r"tcgen05\.mma\S+kind::f16", r"tcgen05\.mma\S+kind::tf32"),
}
SPILLED = {80: 0, 90: 0, 100: 256}  # bytes a thread, of fixed shapes
SPILLED_BY_SEMI_HARD = 4 * KIB  # on 100: four searches of a block, whose places it keeps as well
SPILLED_BY_CANDIDATES = 16 * KIB  # of shapes that are measured before they are used


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knobs.cache, "dir", str(tmp_path))
    monkeypatch.setattr(knobs.nvidia, "dump_ptxas_log", True)


def check(kernel: Any, log: str, capability: int, dtype: torch.dtype, spilled: int) -> None:
    assert kernel.metadata.shared <= SHARED[capability]
    registers = int(re.search(r"Used (\d+) registers", log)[1])
    assert registers * 32 * kernel.metadata.num_warps <= 64 * KIB
    assert int(re.search(r"(\d+) bytes spill stores", log)[1]) <= spilled
    assert re.search(INSTRUCTIONS[capability][dtype == torch.float32], kernel.asm["ptx"])
    by_descriptor = "cp.async.bulk.tensor" in kernel.asm["ptx"]
    assert by_descriptor == (capability >= 90)


def check_fixed(
    family: Family, dtype: torch.dtype, capability: int, capsys: pytest.CaptureFixture
) -> None:
    large = capability in triton_build.WITH_LARGE_SHARED_MEMORY
    chosen = triton_launch.FIXED[large, dtype.itemsize]
    kernel = triton_build.compile_ahead(family, dtype, capability, chosen)
    semi_hard = family is GREATEST_BELOW and capability == 100
    spilled = SPILLED_BY_SEMI_HARD if semi_hard else SPILLED[capability]
    check(kernel, capsys.readouterr().out, capability, dtype, spilled)


@pytest.mark.parametrize("capability", SHARED)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bfloat16", "float32"])
def test_softmax_slopes_fit(
    dtype: torch.dtype, capability: int, capsys: pytest.CaptureFixture
) -> None:
    check_fixed(SLOPES, dtype, capability, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("capability", SHARED)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bfloat16", "float32"])
@pytest.mark.parametrize(
    "family",
    [family for family in FAMILIES if family is not SLOPES],
    ids=lambda family: family.function.__name__,
)
def test_every_family_fits(
    family: Family, dtype: torch.dtype, capability: int, capsys: pytest.CaptureFixture
) -> None:
    check_fixed(family, dtype, capability, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("capability", [90, 100])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.function.__name__)
def test_candidates_fit(family: Family, capability: int, capsys: pytest.CaptureFixture) -> None:
    for chosen in triton_launch.CANDIDATES[True][1:]:
        kernel = triton_build.compile_ahead(family, torch.bfloat16, capability, chosen)
        log = capsys.readouterr().out
        check(kernel, log, capability, torch.bfloat16, SPILLED_BY_CANDIDATES)


class Recorded:
    """Takes the kernel's place and keeps what it is launched with."""

    def __init__(self) -> None:
        self.launches: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def __getitem__(self, grid: Any) -> Any:
        return lambda *arguments, **options: self.launches.append((arguments, options))


def launched(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int, int], dtype: torch.dtype
) -> Any:
    """Return what statistics and a function of scores give the kernel."""
    recorded = Recorded()
    monkeypatch.setattr(triton_launch, "pair_kernel", recorded)
    rows, columns, width = shape
    x, y = torch.ones(rows, width, dtype=dtype), torch.ones(columns, width, dtype=dtype)
    ids = torch.arange(rows), torch.arange(columns)
    engine = triton_engine.TritonEngine(Tiles(x, y, ids, 50, torch.ones(1)))
    offsets = torch.zeros(rows), torch.zeros(columns)
    list(engine.statistics())
    for i, j in engine.tiles.blocks():
        engine.cell(cells.softplus, i, j, offsets[0][i], offsets[1][j])
    return recorded.launches


def test_a_run_finds_what_was_compiled_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """One compiled kernel a function and precision, whatever the batch and the width."""
    kernel = triton_launch.pair_kernel
    launches = [
        one
        for shape in ((100, 130, 512), (7, 1, 33), (64, 64, 768))
        for one in launched(monkeypatch, shape, torch.bfloat16)
    ]
    softplus = triton_engine.OF_CELLS[cells.softplus]
    fixed = triton_launch.FIXED[False, 2]
    ahead = {
        triton_build.compile_ahead(family, torch.bfloat16, 80, fixed).hash
        for family in (STATISTICS, softplus)
    }
    with triton_build._target(80):
        found = {
            kernel.warmup(*arguments, **options, grid=(1,)).hash for arguments, options in launches
        }
    assert len(launches) > 10
    assert found == ahead
