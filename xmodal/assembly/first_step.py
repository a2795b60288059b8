"""First step of a run without values: its own code, on one of many ranks that are not there.

Tensors have shapes alone (`FakeTensorMode`), and collectives have no peers (torch's fake process
group): the step takes seconds, no GPU and no memory. Shapes that do not fit, on any number of
ranks, raise here as they would there. Kernels of GPUs, and what depends on values, do not run.
"""

import logging
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.testing._internal.distributed.fake_pg import FakeStore

from xmodal.assembly.example_batch import example_batch
from xmodal.assembly.recipe import Recipe
from xmodal.assembly.rehearsal_engine import PASSES, RehearsalEngine
from xmodal.costs.communication import CollectiveCounter
from xmodal.costs.memory import MemoryTracker
from xmodal.data.batch import Batch
from xmodal.data.sample_spec import SampleSpec
from xmodal.errors import UserError
from xmodal.methods.method import Method
from xmodal.objectives.pairwise.tiles import GPU_TILE
from xmodal.objectives.training_state import TrainingState
from xmodal.training.config import StageConfig
from xmodal.training.gradient_cache import GradientCache
from xmodal.training.stage_method import prepare_method


@dataclass(frozen=True)
class FirstStep:
    """Costs of a step on one rank."""

    memory: dict[str, int]  # bytes at the moment when most are in use, by what they hold
    most: dict[str, int]  # bytes of each at most, in moments of its own
    sent: dict[str, int]  # bytes to other ranks by what runs within the step, by operation
    backwards: int  # backward passes: micro-batches
    checkpoint: int  # bytes, of all ranks together
    on_host: int  # bytes in the memory of the host, of what is offloaded
    on_disk: int  # bytes on disks, of what is offloaded
    operations: int  # that are launched one by one
    moved: int  # bytes that the optimiser's step reads and writes


def rehearse(
    method: Method,
    recipe: Recipe,
    stage: StageConfig,
    spec: SampleSpec,
    ranks: int,
    *,
    on_gpus: bool,
) -> FirstStep:
    """Take a step of a stage on rank 0 of `ranks`, all without values, and return its costs.

    `method` has no values either (the meta device). It is the second step that is measured: there
    the optimiser has its state. Raises `UserError` where the step would fail.
    """
    prepare(method, recipe, stage, ranks)
    with _ranks(ranks), FakeTensorMode(), MemoryTracker() as memory:
        with memory.holding("weights"):
            method = on_cpu(method, halved=recipe.training.precision == "bf16_weights")
        engine = RehearsalEngine(method, stage, recipe.training, ranks, memory, on_gpus=on_gpus)
        _instrument(method, memory, on_gpus=on_gpus)
        with memory.holding("batch"):
            batch = example_batch(recipe, method.contents, spec, recipe.data.batch_size // ranks)
        micro_batches = batch.cut(recipe.data.micro_batch_size or batch.size)
        engine.step()
        memory.begin()
        before = memory.operations
        with CollectiveCounter(ranks) as collectives, _naming(ranks):
            _step(engine, micro_batches, memory)
        return FirstStep(
            engine.on_rank(memory.peak),
            engine.on_rank(memory.most),
            dict(collectives.sent),
            len(micro_batches),
            engine.checkpoint,
            engine.on_host,
            engine.on_disk,
            # Of equal passes two were taken.
            (memory.operations - before) * max(1, len(micro_batches) // PASSES),
            engine.moved,
        )


def prepare(method: Method, recipe: Recipe, stage: StageConfig, ranks: int) -> None:
    """Make a method ready for a stage, as its start does, but for what compiles."""
    micro_batch = recipe.data.micro_batch_size or recipe.data.batch_size // ranks
    prepare_method(
        method,
        stage,
        recipe.training.model_copy(update={"compile": False}),
        encoded=micro_batch * ranks,
        batch_size=recipe.data.batch_size,
        freeze_batch_norm=recipe.method.image.freezes_batch_norm,
    )


def _step(engine: RehearsalEngine, micro_batches: Sequence[Batch], memory: MemoryTracker) -> None:
    cache = GradientCache(engine, micro_batches, (0, 0))
    engine.module.on_step_start(0.0, 0)
    with memory.holding("activations"):
        loss = torch.stack(list(cache.forward().values())).sum()
        cache.backward(loss)
    del cache, loss
    engine.reduce()
    engine.step()


@contextmanager
def _ranks(ranks: int) -> Iterator[None]:
    """Be rank 0 of so many, of which the others are not there."""
    dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


def on_cpu(method: Method, *, halved: bool = False) -> Method:
    """Replace tensors on the meta device by those without values on the CPU, of bf16 if `halved`.

    What objectives keep from step to step stays in its precision.
    """
    states = [part for part in method.modules() if isinstance(part, TrainingState)]
    kept = {id(one) for state in states for one in state.buffers()}
    moved: dict[Tensor, Tensor] = {}

    def move(tensor: Tensor) -> Tensor:
        if tensor not in moved:
            is_halved = halved and tensor.is_floating_point() and id(tensor) not in kept
            moved[tensor] = torch.empty_strided(
                tensor.shape,
                tensor.stride(),
                dtype=torch.bfloat16 if is_halved else tensor.dtype,
                device="cpu",
            )
        return moved[tensor]

    return method._apply(move)


def _instrument(method: Method, memory: MemoryTracker, *, on_gpus: bool) -> None:
    """Have a method's objective count as such, and equal micro-batches be encoded once."""
    for part in method.modules():
        if on_gpus and getattr(part, "tile", 0) is None:
            part.tile = GPU_TILE  # type: ignore[assignment]
    encode, objective = method.encode, method.objective
    seen: dict[int, Any] = {}

    def encoded(batch: Batch) -> Any:
        if torch.is_grad_enabled():
            return encode(batch)
        if batch.size not in seen:
            seen[batch.size] = encode(batch)
        tensors = {k: v for k, v in vars(seen[batch.size]).items() if isinstance(v, Tensor)}
        return replace(seen[batch.size], **{k: v.clone() for k, v in tensors.items()})

    def labelled(embeddings: Any) -> dict[str, Tensor]:
        with memory.holding("objective"):
            return objective(embeddings)

    method.encode, method.objective = encoded, labelled  # type: ignore[method-assign]


@contextmanager
def _naming(ranks: int) -> Iterator[None]:
    """Report what fails in the block as what the first step would fail by."""
    logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        place = next((one for one in reversed(frames) if _is_own(one)), frames[-1])
        message = str(error).strip().splitlines()[0]
        raise UserError(
            f"the first step would fail on {ranks} ranks: {type(error).__name__}: {message} "
            f"({place.filename}:{place.lineno}, in {place.name})"
        ) from error


def _is_own(frame: traceback.FrameSummary) -> bool:
    """Return whether a frame is neither of torch nor of what watches operations."""
    return "/torch/" not in frame.filename and frame.name != "__torch_dispatch__"
