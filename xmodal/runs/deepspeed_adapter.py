"""Adapter of DeepSpeed: the only module that imports it.

Importing this module imports DeepSpeed. If a version of DeepSpeed lacks one of the names, a run
(`check_names`) or a stage (`check_engine`) fails at its start with one line that names it. Private
names of DeepSpeed's optimisers are also used by deepspeed_shares.py, deepspeed_disks.py,
deepspeed_streams.py and deepspeed_mapped_weights.py.
"""

import gc
import importlib
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import _lru_cache_wrapper, partial, partialmethod
from importlib.metadata import version
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from xmodal.distributed.gradient_reduction import OverlappingReduction
from xmodal.errors import UserError
from xmodal.phases import in_phase
from xmodal.runs.deepspeed_disks import OF_DISKS, step_from_disks
from xmodal.runs.deepspeed_mapped_weights import MAKES_MEMORY, weights_in_files
from xmodal.runs.deepspeed_shares import OF_ZERO_1_AND_2, OF_ZERO_3
from xmodal.runs.deepspeed_streams import OF_STREAMS, order_streams

if not torch.cuda.is_available():
    # Else DeepSpeed says on every rank that it looked for an accelerator in vain.
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed

_ZERO = "deepspeed.runtime.zero."
_CHECK = "is_invalid_grad_norm"  # waits for the device
# Of modules, by the name that the rest of this file uses.
_NAMES = {
    "compatible_ops": "deepspeed.ops:__compatible_ops__",
    "compiler": "deepspeed.runtime:compiler",
    "forward_stack": f"{_ZERO}parameter_offload:FWD_MODULE_STACK",
    "Backend": "deepspeed.comm.torch:TorchBackend",
    "CheckpointEngine": "deepspeed.runtime.checkpoint_engine.checkpoint_engine:CheckpointEngine",
    "LossScaler": "deepspeed.runtime.fp16.loss_scaler:LossScaler",
    "ZeroStageEnum": "deepspeed.runtime.zero.config:ZeroStageEnum",
    "fragment_address": "deepspeed.utils.tensor_fragment:fragment_address",
    "zero_1_and_2": f"{_ZERO}stage_1_and_2:DeepSpeedZeroOptimizer",
    "zero_1_and_2's check": f"{_ZERO}stage_1_and_2:{_CHECK}",
    "zero_3": f"{_ZERO}stage3:DeepSpeedZeroOptimizer_Stage3",
    "zero_3's check": f"{_ZERO}stage3:{_CHECK}",
    "zero_3's memory": f"{_ZERO}stage3:DeepSpeedZeroOptimizer_Stage3.{MAKES_MEMORY}",
}
# Of its backend: by these it reduces gradients and gathers weights.
_COLLECTIVES = {
    *("all_reduce", "all_reduce_coalesced", "reduce", "reduce_scatter", "reduce_scatter_tensor"),
    *("all_gather", "all_gather_into_tensor", "all_gather_coalesced", "broadcast"),
}
_OF_ENGINE = (
    "checkpoint_engine",
    "optimizer.param_groups",
    "set_gradient_accumulation_boundary",
    "is_gradient_accumulation_boundary",
    "managed_gradient_accumulation",
    "allreduce_gradients",
)


def check_names(names: Mapping[str, str] = _NAMES) -> dict[str, Any]:
    """Return DeepSpeed's objects called `MODULE:NAME`; raises `UserError` if one is missing."""
    found = {}
    for name, place in names.items():
        module, _, attribute = place.partition(":")
        try:
            found[name] = attrgetter(attribute)(importlib.import_module(module))
        except (ImportError, AttributeError):
            raise _moved(f"{module}.{attribute}") from None
    return found


def check_engine(engine: Any) -> None:
    """Raise `UserError` if an engine lacks an attribute that xmodal uses."""
    stage = engine.zero_optimization_stage()
    of_zero: Sequence[str] = ((), OF_ZERO_1_AND_2, OF_ZERO_1_AND_2, OF_ZERO_3)[stage]
    of_zero = (*of_zero, *OF_STREAMS.get(stage, ()), *(OF_DISKS if is_on_disks(engine) else ()))
    for name in (*_OF_ENGINE, *of_zero):
        try:
            attrgetter(name)(engine)
        except AttributeError:
            raise _moved(f"engine.{name} (ZeRO {stage})") from None


def _moved(name: str) -> UserError:
    return UserError(
        f"DeepSpeed {version('deepspeed')} has no {name}, which xmodal uses; install a version "
        "that it was tested with: pip install 'xmodal[train]'"
    )


_FOUND = check_names()
CheckpointEngine: Any = _FOUND["CheckpointEngine"]
# Types besides tensors and plain values in DeepSpeed's files; each of them is data.
STATE_TYPES: list[type] = [_FOUND[n] for n in ("LossScaler", "ZeroStageEnum", "fragment_address")]
# Methods of ZeRO 3 remember their arguments, the modules of every engine among them.
_CACHES = [
    one
    for one in gc.get_objects()
    if type(one) is _lru_cache_wrapper and one.__module__.startswith(_ZERO)
]

logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
# DeepSpeed would compile, at the first start, a shared-memory all-reduce that only inference
# uses: 40 seconds, and a crash where there is no compiler.
_FOUND["compatible_ops"]["deepspeed_shm_comm"] = False


def _import_muon(compiler: Any) -> None:
    """Import DeepSpeed's Muon without compiling it.

    DeepSpeed itself imports it under ZeRO, whatever the optimiser, and torch.compile then imports
    its compilers: more than a second of each rank.
    """
    given = compiler.compile
    compiler.compile = lambda: lambda function: function
    try:
        importlib.import_module(f"{_ZERO}muon.muon_optimizer")
    finally:
        compiler.compile = given


_import_muon(_FOUND["compiler"])


def _time_collectives(backend: Any) -> None:
    """Count the calls of DeepSpeed's collectives as communication."""
    for name in vars(backend).keys() & _COLLECTIVES:  # what a version lacks it does not call
        setattr(backend, name, in_phase("communication", getattr(backend, name)))


_time_collectives(_FOUND["Backend"])


def _keep_norm_on_device(zero: Any, reduced: torch.dtype) -> None:
    """Have an optimiser of ZeRO clip by a norm of gradients that the host does not read.

    DeepSpeed reads it at any precision, to skip a step whose gradients are not finite. Here such a
    step is taken; its norm is infinite, by which the trainer ends the run.
    """
    setattr(sys.modules[zero.__module__], _CHECK, lambda _: False)
    zero.get_grad_norm_direct = partialmethod(_norm, reduced)


def _norm(
    zero: Any, reduced: torch.dtype, gradients: Sequence[Tensor], _: Sequence[Tensor]
) -> Tensor:
    """Return the norm of a group's gradients, of which each rank has a share, as DeepSpeed does.

    DeepSpeed copies a number to the device for it, and waits for that.
    """
    mine = [one for one in gradients if not getattr(one, "_zero_padding", False)]
    norms = [torch.linalg.vector_norm(one.double()) for one in mine]
    total = torch.stack(norms or [torch.zeros((), device=zero.device, dtype=torch.float64)])
    total = total.square().sum().to(reduced)
    deepspeed.comm.all_reduce(total, group=zero.dp_process_group)
    return total.sqrt()


_keep_norm_on_device(_FOUND["zero_1_and_2"], torch.float32)
_keep_norm_on_device(_FOUND["zero_3"], torch.float64)


def initialize(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    config: dict[str, Any],
    weights: Path | None = None,
) -> Any:
    """Return an engine; the process group exists already.

    Weights that ZeRO 3 offloads lie in files of the folder `weights`, if one is given.
    """
    deepspeed.init_distributed(
        dist_backend="nccl" if torch.cuda.is_available() else "gloo", verbose=False
    )
    with weights_in_files(_FOUND["zero_3"], weights) if weights else nullcontext():
        engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config)
    check_engine(engine)
    order_streams(engine, deepspeed.accelerator.get_accelerator())
    if is_on_disks(engine):
        step_from_disks(engine)
    if not engine.managed_gradient_accumulation():
        # `step` ends each step, whichever backward pass was the last: DeepSpeed refuses to hear it.
        engine.set_gradient_accumulation_boundary = lambda _: None
    return engine


def load_disk_library() -> None:
    """Load what DeepSpeed reads and writes disks with, which it compiles at first.

    Raises `UserError` where that cannot be.
    """
    builder = deepspeed.ops.op_builder.AsyncIOBuilder()
    try:
        if builder.is_compatible(verbose=False):
            builder.load(verbose=False)
            return
    except (RuntimeError, OSError, ImportError):
        pass
    raise UserError(
        "training.zero.offload_optimizer.device=nvme: DeepSpeed cannot compile its async_io here; "
        "install the headers of libaio (on Debian libaio-dev), ninja and a C++ compiler"
    )


def is_on_disks(engine: Any) -> bool:
    """Return True if an engine's optimiser has its state on disks."""
    return bool(getattr(engine.optimizer, "swap_optimizer", False))


def overlap_reduction(engine: Any, bucket_size: int, dtype: torch.dtype) -> None:
    """Have gradients under ZeRO 0 and 1 reduced while a step's last backward pass continues.

    DeepSpeed has no such thing for ZeRO 0. For ZeRO 1 it has, but it waits for the device, and
    forgets parameters that only an earlier pass of the step reached: under the gradient cache,
    those of the objective.
    """
    engine.reduction = OverlappingReduction(
        engine.module.parameters(),
        bucket_size=bucket_size,
        dtype=dtype,
        is_last=engine.is_gradient_accumulation_boundary,
    )
    if engine.zero_optimization_stage() == 0:
        engine.allreduce_gradients = partial(_finish_reduction, engine)
    else:  # what it calls at the end of a step's last pass: there is nothing left to be reduced
        engine.optimizer.reduce_gradients = partial(_take_reduced, engine)


def _finish_reduction(engine: Any) -> None:
    if engine.is_gradient_accumulation_boundary():
        engine.reduction.finish()


def _take_reduced(engine: Any, **_: Any) -> None:
    engine.reduction.finish()
    engine.optimizer.overlapping_partition_gradients_reduce_epilogue()


def lend(engine: Any, borrowed: Iterable[tuple[nn.Module, nn.Parameter]]) -> None:
    """Have ZeRO 3 gather a module's weights, and those of another one that it reads by itself."""
    if engine.zero_optimization_stage() == 3:
        for module, parameter in borrowed:
            deepspeed.zero.register_external_parameter(module, parameter)


@contextmanager
def weights_stay(block: nn.Module) -> Iterator[None]:
    """Have the weights of a block, which ZeRO 3 gathers within the context, stay until their
    backward pass: activation checkpointing keeps these weights themselves for it.

    After each module's forward pass DeepSpeed releases all weights in a stage's first step, and
    locked weights in every step.
    """
    weights = block.parameters()
    users = [one.ds_active_sub_modules for one in weights if hasattr(one, "ds_active_sub_modules")]
    for modules in users:
        modules.add("checkpoint")
    try:
        yield
    finally:
        for modules in users:
            modules.discard("checkpoint")


@torch.no_grad()
def copy_weights(engine: Any, method: nn.Module) -> None:
    """Copy the weights and statistics of an engine into another instance."""
    trained = engine.module
    for own, weights in zip(method.parameters(), trained.parameters(), strict=True):
        with deepspeed.zero.GatheredParameters([weights]):  # of ZeRO 3, a share on each rank
            own.copy_(weights)
    for kept, statistics in zip(method.buffers(), trained.buffers(), strict=True):
        kept.copy_(statistics)


def destroy(engine: Any) -> None:
    """Destroy an engine: its hooks, and the references that DeepSpeed keeps."""
    if reduction := getattr(engine, "reduction", None):
        reduction.close()
    engine.destroy()
    _FOUND["forward_stack"].clear()  # ZeRO 3 puts every engine's module on it and takes none off
    for cache in _CACHES:
        cache.cache_clear()
