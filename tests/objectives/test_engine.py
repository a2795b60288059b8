"""The choice between plain PyTorch and the kernel, and the warning where there is no kernel."""

import warnings
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from xmodal.objectives.pairwise import cells, engine
from xmodal.objectives.pairwise.plain_engine import PlainEngine
from xmodal.objectives.pairwise.tiles import Tiles

triton_engine = pytest.importorskip("xmodal.objectives.pairwise.triton_engine")


def own_function(scores: Tensor, a: Tensor, b: Tensor) -> cells.Cell:
    """A function that a user writes."""
    return cells.Cell(scores.sum(), torch.ones_like(scores))


def chosen(monkeypatch: pytest.MonkeyPatch, x: Tensor, function: Any = None) -> type:
    monkeypatch.setattr(engine, "runs_kernels", lambda _: True)
    return type(engine.engine_of(Tiles(x, x, None, 4), function))


def test_the_kernel_takes_what_it_has_a_function_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert chosen(monkeypatch, torch.ones(5, 4, dtype=dtype)) is triton_engine.TritonEngine
    margin = partial(cells.distance_hinges, margin=1.0)
    assert chosen(monkeypatch, torch.ones(5, 4), margin) is triton_engine.TritonEngine


def test_plain_pytorch_takes_all_else(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chosen(monkeypatch, torch.ones(5, 4, dtype=torch.float64)) is PlainEngine
    assert chosen(monkeypatch, torch.ones(5, 2, 4)) is PlainEngine
    assert chosen(monkeypatch, torch.ones(5, 4), own_function) is PlainEngine


def test_every_function_of_scores_has_its_kernel() -> None:
    names = {
        name
        for name, one in vars(cells).items()
        if getattr(one, "__module__", "") == cells.__name__
    }
    functions = {
        getattr(cells, name) for name in names - {"Cell"} if callable(getattr(cells, name))
    }
    assert functions == set(triton_engine.OF_CELLS)
    for function, family in triton_engine.OF_CELLS.items():
        assert family.function.__name__ == function.__name__


class Gpu:
    """A tensor of a GPU, as far as the choice looks at it."""

    is_cuda = True
    device = torch.device("cuda", 0)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine with an A100, whose Triton does not start."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (8, 0))
    engine._kernels_compile.cache_clear()
    yield monkeypatch
    engine._kernels_compile.cache_clear()


def test_without_a_compiler_it_warns_once(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(engine.shutil, "which", lambda _: None)
    with pytest.warns(engine.NoKernelWarning, match="install gcc or set CC") as warned:
        assert not any(engine.runs_kernels(Gpu()) for _ in range(3))
    assert len(warned) == 1


def test_of_an_old_gpu_it_says_so(machine: pytest.MonkeyPatch) -> None:
    machine.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 0))
    with pytest.warns(engine.NoKernelWarning, match="compute capability 8.0"):
        assert not engine.runs_kernels(Gpu())


def test_on_a_cpu_and_on_a_pretended_gpu_it_says_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not engine.runs_kernels(torch.ones(1))
        assert not engine.runs_kernels(Gpu())
