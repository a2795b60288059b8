"""The DeepSpeed engine of a stage."""

from typing import Any

import deepspeed
import torch
from torch import nn

from xmodal.recipe import Recipe
from xmodal.training.config import (
    AdamConfig,
    AdamWConfig,
    SGDConfig,
    StageConfig,
)
from xmodal.training.parts import parameter_groups
from xmodal.training.writer import OverlappingWriter


def initialize_engine(method: nn.Module, recipe: Recipe, stage: StageConfig, ranks: int) -> Any:
    """Return the DeepSpeed engine of a method for one stage, its optimiser new.

    It writes checkpoints while training goes on.
    """
    config = {
        "train_batch_size": recipe.data.batch_size,
        # Not the recipe's micro-batch: GradientCache says itself which backward pass ends a step.
        "train_micro_batch_size_per_gpu": recipe.data.batch_size // ranks,
        "gradient_clipping": stage.clip_norm,
        "zero_optimization": {"stage": recipe.training.zero},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }
    engine, *_ = deepspeed.initialize(
        model=method, optimizer=_optimizer(method, stage), config=config
    )
    engine.checkpoint_engine = OverlappingWriter(engine.checkpoint_engine)
    return engine


def _optimizer(method: nn.Module, stage: StageConfig) -> torch.optim.Optimizer:
    config, groups = stage.optimizer, parameter_groups(method, stage)
    match config:
        case AdamWConfig():
            return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps)
        case AdamConfig():
            return torch.optim.Adam(
                groups, lr=config.lr, betas=config.betas, eps=config.eps, amsgrad=config.amsgrad
            )
        case SGDConfig():
            return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)


def gradient_norm(module: nn.Module) -> float:
    """Return the norm of all gradients of a module together."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients))
