"""DeepSpeed engine of a stage."""

from typing import Any

import torch

from xmodal.methods.method import Method
from xmodal.models.adapters import borrowed_weights
from xmodal.models.channels_last import lay_out_weights
from xmodal.runs import deepspeed_adapter
from xmodal.runs.checkpoints.writer import OverlappingWriter
from xmodal.training.clipping import clip_before_steps
from xmodal.training.config import StageConfig, TrainingConfig
from xmodal.training.ema import averages_of, keep_average
from xmodal.training.parts import parameter_groups
from xmodal.training.state_on_disks import disk_folders, disk_options
from xmodal.training.timeline import StageSpan, Timeline


def initialize_engine(
    method: Method, stage: StageConfig, training: TrainingConfig, batch_size: int, ranks: int
) -> Any:
    """Return the DeepSpeed engine of a method for one stage, its optimiser new.

    It writes checkpoints while training continues.
    """
    on_gpus, zero = torch.cuda.is_available(), training.zero
    lay_out_weights(method, on_gpus=on_gpus)
    # Fused: one kernel for all weights, and counters on the device.
    fused = {"fused": True} if on_gpus and stage.optimizer.fuses else {}
    optimizer = stage.optimizer.build(parameter_groups(method, stage), **fused)
    for key in averages_of(stage, method):
        keep_average(optimizer, key)
    if not zero.stage:
        clip_before_steps(optimizer, method, stage.clip_norm)
    config = _deepspeed_config(stage, training, batch_size, ranks)
    folders = disk_folders(training, method, optimizer, ranks)
    if of_state := folders.get("offload_optimizer"):
        config["zero_optimization"]["offload_optimizer"] |= disk_options(of_state, optimizer)
    of_weights = folders.get("offload_parameters")
    engine = deepspeed_adapter.initialize(
        method, optimizer, config, of_weights.path if of_weights else None
    )
    engine.folders = folders
    if zero.stage < 2 and zero.overlaps(on_gpus=on_gpus):
        sent = torch.bfloat16 if training.communication == "bf16" else torch.float32
        deepspeed_adapter.overlap_reduction(engine, zero.bucket(on_gpus=on_gpus), sent)
    deepspeed_adapter.lend(engine, borrowed_weights(method))
    engine.checkpoint_engine = OverlappingWriter(engine.checkpoint_engine)
    return engine


def _deepspeed_config(
    stage: StageConfig, training: TrainingConfig, batch_size: int, ranks: int
) -> dict[str, Any]:
    config: dict[str, Any] = {
        "train_batch_size": batch_size,
        # Not the recipe's micro-batch: GradientCache says itself which backward pass ends a step.
        "train_micro_batch_size_per_gpu": batch_size // ranks,
        "gradient_clipping": stage.clip_norm if training.zero.stage else 0.0,
        "communication_data_type": training.communication,
        "zero_optimization": training.zero.options(on_gpus=torch.cuda.is_available()),
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
        # It waits for the GPU twice a backward pass.
        "timers": {"throughput": {"enabled": False}},
    }
    if training.precision == "bf16_weights":
        # bf16 has the range of fp32: what overflows is no matter of a scale.
        bf16 = {"enabled": True, "check_grad_overflow": False}
        config |= {"bf16": bf16, "data_types": {"grad_accum_dtype": "fp32"}}
    if training.zero.offload_optimizer and training.zero.stage > 1:
        # Else it offloads only gradients that the step's last backward pass reaches, which under
        # the gradient cache are not those of the objective.
        config["managed_gradient_accumulation"] = False
    return config


def close_engine(engine: Any) -> None:
    """End a stage's engine: its thread, its hooks, and everything that DeepSpeed keeps of it.

    An engine is full of circular references: its memory is free once the caller holds it no longer
    and the garbage is collected.
    """
    engine.checkpoint_engine.close()
    deepspeed_adapter.destroy(engine)
    for folder in engine.folders.values():
        folder.close()


def set_learning_rate(engine: Any, span: StageSpan, step: int, timeline: Timeline) -> float:
    """Set the learning rate of each parameter group for a step; return that without a factor."""
    total = span.end - span.start
    schedule = span.config.schedule.build(lambda d: timeline.steps(d, total))
    highest = span.config.optimizer.lr
    rate = highest * schedule.factor(step - span.start, total)
    for group in engine.optimizer.param_groups:
        group["lr"] = (highest if group["constant"] else rate) * group["factor"]
    return rate
