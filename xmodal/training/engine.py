"""DeepSpeed engine of a stage."""

from typing import Any

import torch
from torch import nn

from xmodal.models.adapters import borrowed_weights
from xmodal.runs import deepspeed_adapter
from xmodal.runs.checkpoints.writer import OverlappingWriter
from xmodal.training.config import StageConfig
from xmodal.training.ema import keep_average
from xmodal.training.parts import parameter_groups
from xmodal.training.timeline import StageSpan, Timeline


def initialize_engine(
    method: nn.Module, stage: StageConfig, *, batch_size: int, ranks: int, zero: int = 0
) -> Any:
    """Return the DeepSpeed engine of a method for one stage, its optimiser new.

    It writes checkpoints while training continues.
    """
    config = {
        "train_batch_size": batch_size,
        # Not the recipe's micro-batch: GradientCache says itself which backward pass ends a step.
        "train_micro_batch_size_per_gpu": batch_size // ranks,
        "gradient_clipping": stage.clip_norm,
        "zero_optimization": {"stage": zero},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
        # It waits for the GPU twice a backward pass.
        "timers": {"throughput": {"enabled": False}},
    }
    optimizer = stage.optimizer.build(parameter_groups(method, stage))
    if stage.ema:
        keep_average(optimizer)
    engine = deepspeed_adapter.initialize(method, optimizer, config)
    deepspeed_adapter.lend(engine, borrowed_weights(method))
    engine.checkpoint_engine = OverlappingWriter(engine.checkpoint_engine)
    return engine


def close_engine(engine: Any) -> None:
    """End a stage's engine: its thread, its hooks, and everything that DeepSpeed keeps of it.

    An engine is full of circular references: its memory is free once the caller holds it no longer
    and the garbage is collected.
    """
    engine.checkpoint_engine.close()
    deepspeed_adapter.destroy(engine)


def set_learning_rate(engine: Any, span: StageSpan, step: int, timeline: Timeline) -> float:
    """Set the learning rate of each parameter group for a step; return that without a factor."""
    total = span.end - span.start
    schedule = span.config.schedule.build(lambda d: timeline.steps(d, total))
    highest = span.config.optimizer.lr
    rate = highest * schedule.factor(step - span.start, total)
    for group in engine.optimizer.param_groups:
        group["lr"] = (highest if group["constant"] else rate) * group["factor"]
    return rate


def gradient_norm(module: nn.Module) -> float:
    """Return the norm of all gradients of a module together."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients))
