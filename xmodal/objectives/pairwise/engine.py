"""The choice between plain PyTorch and Triton's kernel."""

import functools
import shutil
import warnings
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from xmodal.objectives.pairwise.cells import CellFunction
from xmodal.objectives.pairwise.plain_engine import PlainEngine
from xmodal.objectives.pairwise.tiles import AlikeIds, NoNegatives, Tiles

if TYPE_CHECKING:
    from xmodal.objectives.pairwise.triton_engine import TritonEngine


class NoKernelWarning(UserWarning):
    """Objectives are computed in plain PyTorch on a GPU, several times slower."""


class Form(Protocol):
    """Scores of pairs that are no products of two vectors."""

    @property
    def of_pair(self) -> tuple[int, ...]:
        """Return the shape of a pair's scores, () where it has one."""

    def engine(
        self,
        x: Tensor,
        y: Tensor,
        ids: NoNegatives | None,
        size: int | None,
        scale: Tensor | None,
    ) -> Any:
        """Return what computes tiles of them: its methods are those of `PlainEngine`."""


def engine_for(
    x: Tensor,
    y: Tensor,
    ids: NoNegatives | None,
    size: int | None,
    scale: Tensor | None = None,
    function: CellFunction | None = None,
    form: Form | None = None,
) -> Any:
    """Return what computes tiles of the scores s x·y, or of those of another form."""
    if form is not None:
        return form.engine(x, y, ids, size, scale)
    return engine_of(Tiles(x, y, ids, size, scale), function)


def engine_of(tiles: Tiles, function: CellFunction | None = None) -> "PlainEngine | TritonEngine":
    """Return what computes tiles: the kernel on a GPU, where it suits them and `function`."""
    if not (runs_kernels(tiles.x) and _suits(tiles)):
        return PlainEngine(tiles)
    from xmodal.objectives.pairwise import triton_engine

    if function and not triton_engine.has_kernel(function):
        return PlainEngine(tiles)
    return triton_engine.TritonEngine(tiles)


def runs_kernels(x: Tensor) -> bool:
    """Return whether a tensor's device can run kernels: not a CPU, nor a pretended GPU."""
    return x.is_cuda and torch.cuda.is_available() and not _is_fake(x) and _kernels_compile()


def _suits(tiles: Tiles) -> bool:
    of_one = tiles.embeddings_per_item == (1, 1)
    by_ids = not isinstance(tiles.ids, AlikeIds)  # the kernel compares ids alone
    return by_ids and of_one and tiles.x.dtype == tiles.y.dtype != torch.float64


def _is_fake(x: Tensor) -> bool:
    return isinstance(x, torch._subclasses.FakeTensor)


@functools.cache
def _kernels_compile() -> bool:
    """Return whether Triton can compile for this machine's GPU; else warn, once."""
    reason = _reason_against_kernels()
    if reason:
        warnings.warn(
            f"objectives run in plain PyTorch, without fused kernels: {reason}",
            NoKernelWarning,
            stacklevel=2,
        )
    return not reason


def _reason_against_kernels() -> str:
    if torch.cuda.get_device_capability() < (8, 0):
        return "they need a GPU of compute capability 8.0 (A100) or newer"
    try:
        from triton.runtime import driver

        driver.active.get_current_target()  # compiles its first C extension
    except ImportError:
        return "Triton is missing; install it with: pip install triton"
    except Exception as error:
        if not (shutil.which("gcc") or shutil.which("clang")):
            return "Triton needs a C compiler; install gcc or set CC"
        return f"Triton does not start: {error}"
    return ""
